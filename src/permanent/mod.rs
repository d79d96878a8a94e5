//! `appfw unit`: programs confined by units that last, as files of systemd's.
//!
//! ```text
//! install: args ── settled ── rendering ── files ─▶ reload, enable, start
//! start:   mark ── the same rendering ── compared with the files and with systemd ─▶ order ─▶ inside
//! ```

mod files;
mod install;
mod list;
mod order;
mod ready;
mod realm;
mod rendering;
mod settled;
mod start;
mod update;

use anyhow::Result;

use crate::cli::UnitCommand;
use crate::manager::block_on;

pub use files::{all_files, all_units, shown};
pub use order::{Outside, Standing};
pub use ready::ready;
pub use realm::Realm;
pub use rendering::{Directories, Rendering, command};
pub use settled::{Settled, lasting_address, settle};
pub use start::{Started, apply, expect_ports, restart, start};

/// `appfw unit …`.
///
/// # Errors
/// It was not done, or not as a whole.
pub fn run(command: UnitCommand) -> Result<()> {
    match command {
        UnitCommand::Show(args) => block_on(install::show(&args)),
        UnitCommand::Install(args) => block_on(install::install(&args)),
        UnitCommand::Remove(args) => block_on(install::remove(&args)),
        UnitCommand::Update(args) => block_on(update::update(&args)),
        UnitCommand::List(args) => block_on(list::list(&args)),
    }
}

/// The root of the file system, where everything is.
const ROOT: &str = "/";
