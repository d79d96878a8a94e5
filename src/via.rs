//! stub
#![allow(missing_docs)]
use std::net::IpAddr;
use std::path::PathBuf;
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint { Tcp{host:String,port:u16}, Unix(PathBuf), FindTor }
impl Endpoint { pub fn ip(&self)->Option<IpAddr>{ match self { Endpoint::Tcp{host,..}=>host.parse().ok(), _=>None } } }
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop { pub endpoint: Endpoint }
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via { Direct, None, Chain(Vec<Hop>) }
impl Via {
  pub fn from_args(a:&[String])->anyhow::Result<Via>{ match a.first().map(String::as_str){ Some("direct")=>Ok(Via::Direct), Some("none")=>Ok(Via::None), _=>anyhow::bail!("no via") } }
  pub fn has_secret(&self)->bool{false}
  pub fn secret_spec(&self)->String{"direct".into()}
  pub fn wants_tor(&self)->bool{false}
  pub fn settle_tor(&mut self,_e:Endpoint){}
}
impl std::fmt::Display for Via { fn fmt(&self,f:&mut std::fmt::Formatter<'_>)->std::fmt::Result{ f.write_str("direct") } }
