//! stub
#![allow(missing_docs)]
#[derive(Debug, clap::Args)]
pub struct ForwardArgs { #[arg(long)] pub via: Vec<String>, #[arg(long)] pub report: Option<String>, #[arg(long)] pub allow_destination: Vec<String>, #[arg(long)] pub peer_cgroup: Option<String> }
