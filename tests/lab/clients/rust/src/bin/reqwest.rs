//! Prints the pages whose addresses it is given.

fn main() -> Result<(), reqwest::Error> {
    for url in std::env::args().skip(1) {
        print!("{}", reqwest::blocking::get(url)?.text()?);
    }
    Ok(())
}
