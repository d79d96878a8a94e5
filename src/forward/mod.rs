//! stub
#![allow(missing_docs)]
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(tag="event", rename_all="kebab-case")]
pub enum Report { Request, UpstreamFailed{message:String} }
pub fn run(_a: crate::cli::ForwardArgs)->anyhow::Result<()>{
    use std::io::{Read,Write};
    let mut l=listenfd::ListenFd::from_env();
    let t=l.take_tcp_listener(0)?.ok_or_else(||anyhow::anyhow!("no listener"))?;
    loop { let (mut s,_)=t.accept()?; std::thread::spawn(move||{ let mut b=[0;3]; let _=s.read_exact(&mut b); let _=s.write_all(&[5,0]); let _=s.read(&mut b);}); }
}
