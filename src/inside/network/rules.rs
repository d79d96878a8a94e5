//! The rules of nf_tables that hand captured packets to the forwarder's listener, in one transaction. What
//! `nft` would be told stands beside each. Expressions and attributes: linux/netfilter/nf_tables.h.

use std::ffi::CStr;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use netlink_bindings::nftables::{
    Chained, CmpOps, MetaKeys, Nfgenmsg, PayloadBase, PushExprListAttrs, PushRuleAttrs, Registers, VerdictCode,
};
use netlink_socket2::NetlinkSocket;
use nix::libc::{
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, NF_INET_PRE_ROUTING, NFNL_SUBSYS_NFTABLES, NFPROTO_IPV4,
    NFPROTO_IPV6,
};

use crate::cli::Capture;
use crate::dns;
use crate::plan::{CAPTURE_PORT, PAIR_ADDRESS};

const TABLE: &CStr = c"appfw";
const CAPTURE: &CStr = c"capture";

/// NF_IP_PRI_MANGLE (linux/netfilter_ipv4.h; the same in IPv6).
const PRIORITY_MANGLE: i32 = -150;

/// What a rule is made of, under construction.
type Expressions<'a> = PushExprListAttrs<PushRuleAttrs<&'a mut Vec<u8>>>;

/// Where the flags stand in a segment's header, and two of them (RFC 9293, 3.1).
const TCP_FLAGS: u32 = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// What is loaded stands there until it is compared.
const REGISTER: u32 = Registers::Reg1 as u32;

/// What differs between the two families.
struct Family {
    number: i32,
    /// Where a packet's destination begins in its header, and the bytes of it that are loopback's.
    destination: u32,
    loopback: &'static [u8],
    icmp: i32,
    echo_request: u8,
}

const FAMILIES: [Family; 2] = [
    Family {
        number: NFPROTO_IPV4,
        destination: 16,
        loopback: &[Ipv4Addr::LOCALHOST.octets()[0]],
        icmp: IPPROTO_ICMP,
        echo_request: 8,
    },
    Family {
        number: NFPROTO_IPV6,
        destination: 24,
        loopback: &Ipv6Addr::LOCALHOST.octets(),
        icmp: IPPROTO_ICMPV6,
        echo_request: 128,
    },
];

/// Installs the rules of `capture`.
///
/// # Errors
/// The kernel refuses them: most often it has no nf_tables.
pub(super) fn install(kernel: &mut NetlinkSocket, capture: Capture) -> Result<()> {
    let mut batch = Chained::new(kernel.reserve_seq(32));
    let mut ends = Nfgenmsg::new();
    ends.set_res_id(NFNL_SUBSYS_NFTABLES as u16);
    batch.request().op_batch_begin_do(&ends);
    for family in &FAMILIES {
        family.add(&mut batch, capture);
    }
    batch.request().op_batch_end_do(&ends);
    let batch = batch.finalize();
    let answered = kernel.request_chained(&batch).map_err(Into::into).and_then(|mut answers| answers.recv_all());
    answered.context(
        "cannot install the nf_tables rules that capture the app's connections (the kernel needs nf_tables and nft_tproxy); --no-capture does without",
    )
}

impl Family {
    fn header(&self) -> Nfgenmsg {
        Nfgenmsg { nfgen_family: self.number as u8, ..Nfgenmsg::new() }
    }

    fn add(&self, batch: &mut Chained<'_>, capture: Capture) {
        batch.request().set_create().op_newtable_do(&self.header()).encode().push_name(TABLE);
        // One hook is all: where no other rules are, the kernel's code is patched for each, with all processors held up.
        self.chain(batch);
        // A connection's first segment goes to the listener; the others find the socket that came of it by their
        // addresses, as any do, and the quicker (early demux, which what a tproxy has given a socket goes without).
        // ip daddr != 127.0.0.0/8 tcp flags & (syn|ack) == syn tproxy to :1081 accept
        self.rule(batch, |rule| {
            let flags = load(self.of(rule, IPPROTO_TCP), PayloadBase::TransportHeader, TCP_FLAGS, 1);
            tproxy(compare(masked(flags, SYN | ACK), CmpOps::Eq, &[SYN]), self.number)
        });
        if capture == Capture::Datagrams {
            // ip daddr != 127.0.0.0/8 ip daddr != 192.0.2.50 udp dport != 53 tproxy to :1081 accept
            self.rule(batch, |rule| {
                let elsewhere = self.past_the_pair(self.of(rule, IPPROTO_UDP));
                let others = load(elsewhere, PayloadBase::TransportHeader, 2, 2);
                tproxy(compare(others, CmpOps::Neq, &dns::PORT.to_be_bytes()), self.number)
            });
        }
        // The kernel itself answers echo requests to what is its own, which here is everything. Nobody here may send one
        // (net.ipv4.ping_group_range of a new namespace; CAP_NET_RAW).
        // ip daddr != 127.0.0.0/8 icmp type echo-request drop
        self.rule(batch, |rule| {
            let kind = load(self.of(rule, self.icmp), PayloadBase::TransportHeader, 0, 1);
            verdict(compare(kind, CmpOps::Eq, &[self.echo_request]), VerdictCode::Drop)
        });
    }

    fn chain(&self, batch: &mut Chained<'_>) {
        let mut request = batch.request().set_create().op_newchain_do(&self.header());
        let attributes = request.encode().push_table(TABLE).push_name(CAPTURE);
        let hook = attributes.nested_hook().push_num(NF_INET_PRE_ROUTING as u32).push_priority(PRIORITY_MANGLE);
        hook.end_nested().push_type(c"filter");
    }

    fn rule(&self, batch: &mut Chained<'_>, expressions: impl for<'a> FnOnce(Expressions<'a>) -> Expressions<'a>) {
        let mut request = batch.request().set_create().set_append().op_newrule_do(&self.header());
        expressions(request.encode().push_table(TABLE).push_chain(CAPTURE).nested_expressions());
    }

    /// `ip daddr != 192.0.2.50`: what was asked from there is answered there, by datagrams that only look as if they came
    /// from elsewhere. A connection's answers are told by their flags.
    fn past_the_pair<'a>(&self, rule: Expressions<'a>) -> Expressions<'a> {
        if self.number != NFPROTO_IPV4 {
            return rule;
        }
        compare(load(rule, PayloadBase::NetworkHeader, self.destination, 4), CmpOps::Neq, &PAIR_ADDRESS.octets())
    }

    /// `ip daddr != 127.0.0.0/8 meta l4proto PROTOCOL`, `ip6 daddr != ::1 …`
    fn of<'a>(&self, rule: Expressions<'a>, protocol: i32) -> Expressions<'a> {
        let loaded = load(rule, PayloadBase::NetworkHeader, self.destination, self.loopback.len() as u32);
        let outside = compare(loaded, CmpOps::Neq, self.loopback);
        let meta = outside.nested_elem().nested_data_meta();
        let loaded = meta.push_key(MetaKeys::L4Proto as u32).push_dreg(REGISTER).end_nested().end_nested();
        compare(loaded, CmpOps::Eq, &[protocol as u8])
    }
}

/// Loads bytes of the packet.
fn load(rule: Expressions<'_>, base: PayloadBase, offset: u32, length: u32) -> Expressions<'_> {
    let payload = rule.nested_elem().nested_data_payload();
    let payload = payload.push_dreg(REGISTER).push_base(base as u32).push_offset(offset).push_len(length);
    payload.end_nested().end_nested()
}

/// Leaves of the byte that was loaded what `mask` has.
fn masked(rule: Expressions<'_>, mask: u8) -> Expressions<'_> {
    let bitwise = rule.nested_elem().nested_data_bitwise();
    let bitwise = bitwise.push_sreg(REGISTER).push_dreg(REGISTER).push_len(1);
    let bitwise = bitwise.nested_mask().push_value(&[mask]).end_nested();
    bitwise.nested_xor().push_value(&[0]).end_nested().end_nested().end_nested()
}

/// Goes on where what was loaded compares so.
fn compare<'a>(rule: Expressions<'a>, how: CmpOps, value: &[u8]) -> Expressions<'a> {
    let cmp = rule.nested_elem().nested_data_cmp().push_sreg(REGISTER).push_op(how as u32);
    cmp.nested_data().push_value(value).end_nested().end_nested().end_nested()
}

/// Gives the packet to the socket that listens at the forwarder's port, whatever its destination.
fn tproxy(rule: Expressions<'_>, family: i32) -> Expressions<'_> {
    let immediate = rule.nested_elem().nested_data_immediate().push_dreg(REGISTER);
    let port = immediate.nested_data().push_value(&CAPTURE_PORT.to_be_bytes());
    let rule = port.end_nested().end_nested().end_nested();
    let tproxy = rule.nested_elem().nested_data_tproxy();
    let rule = tproxy.push_family(family as u32).push_reg_port(REGISTER).end_nested().end_nested();
    verdict(rule, VerdictCode::Accept)
}

fn verdict(rule: Expressions<'_>, code: VerdictCode) -> Expressions<'_> {
    let immediate = rule.nested_elem().nested_data_immediate().push_dreg(Registers::RegVerdict as u32);
    let code = immediate.nested_data().nested_verdict().push_code(code as u32);
    code.end_nested().end_nested().end_nested().end_nested()
}
