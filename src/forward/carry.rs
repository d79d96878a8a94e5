//! What carries connections, for the other part of a launch that does: `appfw publish`.

pub(crate) use super::launcher::{Launcher, ended};
pub(crate) use super::limits::{ACCEPT_PAUSE, Limits};
pub(crate) use super::log::{Seldom, start as start_log};
pub(crate) use super::relay::{Buffers, Traffic, relay};
pub(crate) use super::session::prepare;
pub(crate) use super::stream::Stream;
