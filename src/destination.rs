//! stub
#![allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowDestination(String);
impl std::str::FromStr for AllowDestination { type Err=anyhow::Error; fn from_str(s:&str)->anyhow::Result<Self>{Ok(Self(s.into()))} }
impl std::fmt::Display for AllowDestination { fn fmt(&self,f:&mut std::fmt::Formatter<'_>)->std::fmt::Result{ f.write_str(&self.0) } }
