//! The command lines of the two programs, as clap sees them. No decisions here.

mod forward;

pub use forward::ForwardArgs;
