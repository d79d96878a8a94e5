//! What tests/fuzz feeds: messages as a client or a resolver could send them. No part of the library's interface.

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::RData;

use crate::destination::Host;
use crate::forward::limits::DNS_ANSWER_BYTES;

use super::message::{Question, Subject, Transport};

/// A query, and what a resolver answers to it: the first byte says how long the query is. `false` if one of
/// our own messages is not what it has to be.
#[must_use]
pub fn exchange(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first() else { return true };
    let (query, answer) = rest.split_at(usize::from(*length).min(rest.len()));
    match Question::read(query) {
        Ok(question) => is_sound(&question, query, answer),
        Err(Some(told)) => is_answer(Some(told), query),
        Err(None) => true,
    }
}

fn is_sound(question: &Question, query: &[u8], answer: &[u8]) -> bool {
    let is_name = match question.subject() {
        Subject::Name(name) => name.parse::<Host>().is_ok_and(|host| host == Host::Name(name)),
        Subject::Address(_) | Subject::NoHost => true,
    };
    let Some(sent) = question.for_upstream() else { return false };
    let is_same = Question::read(&sent).is_ok_and(|again| {
        let is_one = again.kind() == question.kind() && again.class() == question.class();
        is_one && again.subject() == question.subject() && again.for_upstream() == Some(sent)
    });
    let address = || [RData::A(Ipv4Addr::LOCALHOST.into())];
    let passed_on =
        question.addresses_in(answer).and_then(|_| question.passed_on(answer.to_vec(), Transport::Datagram));
    is_name
        && is_same
        && is_answer(question.error(ResponseCode::Refused), query)
        && is_answer(question.records(address(), 1, Transport::Datagram), query)
        // Of another's answer no more than header, question and addresses is looked at.
        && passed_on.is_none_or(|answer| answer.get(..2) == query.get(..2) && fits(&answer))
}

/// Whether it is there, is whole, answers what `query` asked, and fits into a datagram.
fn is_answer(answer: Option<Vec<u8>>, query: &[u8]) -> bool {
    answer.is_some_and(|answer| {
        let read = Message::from_vec(&answer);
        let is_response = read.is_ok_and(|message| message.message_type == MessageType::Response);
        is_response && answer.get(..2) == query.get(..2) && fits(&answer)
    })
}

fn fits(answer: &[u8]) -> bool {
    answer.len() <= usize::from(DNS_ANSWER_BYTES)
}
