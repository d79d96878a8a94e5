//! The answer to an absolute-form request: waited for so long, and carried to the client.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::SetOnce;

use crate::destination::Destination;
use crate::forward::failure::Failure;
use crate::forward::limits::{HEAD_BYTES, HEADERS};
use crate::forward::relay::Traffic;

use super::body::{copy_body, copy_unframed};
use super::head::{Fate, Framing, Head, HeadError, HeadRoom, Room, read_head};
use super::plain::Form;

/// Why an answer was not carried to its end.
pub(super) enum Unanswered {
    /// None came; the client can still be told.
    None(Failure),
    /// It broke off in its middle.
    Broken(io::Error),
}

impl From<io::Error> for Unanswered {
    fn from(error: io::Error) -> Self {
        Unanswered::Broken(error)
    }
}

/// What an answer is measured by.
pub(super) struct Asked<'a> {
    pub(super) destination: &'a Destination,
    pub(super) is_head: bool,
    /// The minor version of HTTP that the client speaks.
    pub(super) version: u8,
    pub(super) form: &'a Form,
    /// The client wants no other answer by its connection.
    pub(super) closes: bool,
    pub(super) may_switch: bool,
    /// Set when no more of the request is sent: `true` if all of it was, so that another may follow.
    pub(super) sent: &'a SetOnce<bool>,
    /// Time for the answer from then on.
    pub(super) time: Duration,
    pub(super) heads: &'a HeadRoom,
}

impl Asked<'_> {
    /// Carries the answer, and interim ones before it.
    pub(super) async fn carry(
        &self,
        from: &mut (impl AsyncBufRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        traffic: &Traffic,
    ) -> Result<Fate, Unanswered> {
        let status = tokio::select! {
            status = self.last_status(from, to) => status?,
            () = self.overdue() => return Err(self.late()),
        };
        if status.code == 101 {
            return Ok(switch(status, to).await?);
        }
        let Status { code, mut head, .. } = status;
        let has_body = !self.is_head && !matches!(code, 204 | 304);
        let knows_chunks = self.version > 0;
        let framing = head.framing;
        // A length is a header of what HEAD and 304 speak of; with 204 it would be wrong.
        if code == 204 || framing == Framing::Chunked && !knows_chunks {
            head.framing = Framing::Unsaid;
        }
        let ends_by_itself = !has_body || head.framing != Framing::Unsaid;
        let stays = ends_by_itself && !self.closes && self.sent.get() == Some(&true);
        let fate = if stays { Fate::Stays } else { Fate::Closes };
        let mut text = status.line;
        head.write(&mut text, fate);
        to.write_all(&text).await?;
        let count = &traffic.received;
        count.fetch_add(text.len() as u64, Relaxed);
        drop((text, head, status.room));
        if has_body && knows_chunks {
            copy_body(framing, from, to, count).await?;
        } else if has_body {
            copy_unframed(framing, from, to, count).await?;
        }
        Ok(fate)
    }

    /// Reads the head that counts, and passes interim ones on.
    async fn last_status(
        &self,
        from: &mut (impl AsyncBufRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Result<Status, Unanswered> {
        loop {
            let status = self.status(from).await?;
            match (status.code, self.form) {
                (101, _) if self.may_switch && status.head.upgrade.is_some() => return Ok(status),
                (101, _) => return Err(self.none("switched protocols unasked")),
                (100..=199, _) => self.interim(status, to).await?,
                (407, Form::Absolute { proxy, .. }) => return Err(Unanswered::None(Failure::wants_login(proxy))),
                _ => return Ok(status),
            }
        }
    }

    async fn status(&self, from: &mut (impl AsyncBufRead + Unpin)) -> Result<Status, Unanswered> {
        let (text, room) = read_head(from, HEAD_BYTES, self.heads).await.map_err(|error| match error {
            HeadError::Closed => self.none("closed the connection without an answer"),
            HeadError::TooLarge => self.none("sent too large a head"),
            HeadError::NoRoom => Unanswered::None(Failure::no_room_for_a_head()),
        })?;
        Status::parse(&text, room).map_err(|what| self.none(&what))
    }

    async fn interim(&self, status: Status, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        // HTTP/1.0 knows no interim answers.
        if self.version == 0 {
            return Ok(());
        }
        let mut text = status.line;
        status.head.write_fields(&mut text);
        text.extend_from_slice(b"\r\n");
        to.write_all(&text).await?;
        to.flush().await
    }

    /// Returns once the answer has been waited for long enough.
    async fn overdue(&self) {
        self.sent.wait().await;
        tokio::time::sleep(self.time).await;
    }

    /// Whoever was asked did `what` instead. A proxy has an answer also where the web server has none.
    fn none(&self, what: &str) -> Unanswered {
        let destination = self.destination;
        Unanswered::None(match self.form {
            Form::Origin => Failure::general(format!("{destination} {what}")),
            Form::Absolute { proxy, .. } => {
                Failure::general(format!("the HTTP upstream {proxy}, asked for {destination}, {what}")).of_upstream()
            }
        })
    }

    /// Whoever was asked said nothing that counts, in all that time.
    fn late(&self) -> Unanswered {
        let destination = self.destination;
        Unanswered::None(match self.form {
            Form::Origin => Failure::timed_out(format_args!("the answer of {destination}")),
            Form::Absolute { proxy, .. } => {
                Failure::timed_out(format_args!("the HTTP upstream {proxy}, asked for {destination},")).of_upstream()
            }
        })
    }
}

/// Tells the client that the connection goes on with another protocol.
async fn switch(status: Status, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<Fate> {
    let Status { line: mut text, mut head, .. } = status;
    head.framing = Framing::Unsaid;
    head.write(&mut text, Fate::Upgrades);
    to.write_all(&text).await?;
    Ok(Fate::Upgrades)
}

/// The head of an answer.
struct Status {
    code: u16,
    /// The first line, as the client gets it.
    line: Vec<u8>,
    head: Head,
    /// What it takes of the room for heads.
    room: Room,
}

impl Status {
    /// An error says what the other end did instead.
    fn parse(text: &[u8], room: Room) -> Result<Self, String> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        // A proxy takes the space before a colon away (RFC 9112, 5.1); in a request it is none of HTTP.
        let parsed = httparse::ParserConfig::default()
            .allow_spaces_after_header_name_in_responses(true)
            .parse_response(&mut response, text);
        if parsed == Err(httparse::Error::TooManyHeaders) {
            return Err(format!("answered with more than {HEADERS} headers"));
        }
        let (Ok(httparse::Status::Complete(_)), Some(code @ 100..), Some(version)) =
            (parsed, response.code, response.version)
        else {
            return Err("answered something that is not HTTP".into());
        };
        let head = Head::of_answer(response.headers, version).map_err(|what| format!("answered with {what}"))?;
        // Our own version (RFC 9110 6.2): what comes is framed as we frame it.
        let line = format!("HTTP/1.1 {code} {}\r\n", response.reason.unwrap_or_default()).into_bytes();
        Ok(Self { code, line, head, room })
    }
}
