//! Parse, launch, exit: the only place of `appfw-run` that prints an error.

use std::process::ExitCode;

use appfw::cli::{self, LaunchArgs, Parsed};
use appfw::{exit, launch, say};

fn main() -> ExitCode {
    let args = match cli::parse::<LaunchArgs>() {
        Parsed::Run(args) => args,
        Parsed::Exit(code) => return ExitCode::from(code),
    };
    // The program gets it as a systemd would give it, in every mode: few know what to do when it is ignored.
    if let Err(error) = appfw_kernel::expect_children() {
        say::failure("appfw-run", &error.into());
        return ExitCode::from(exit::OURS);
    }
    // The caller's stay open here as long as the launch lasts (flock(1) may count on it), and in nothing that it starts:
    // whoever reads a pipe to its end waits for all who hold it.
    close_fds::set_fds_cloexec(3, &[]);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = launch::expect_descriptors().and_then(|()| runtime()?.block_on(launch::launch(&args)));
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say::failure("appfw-run", &error);
            ExitCode::from(exit::code_of(&error))
        }
    }
}
