//! `weir completion`.

use std::{io, process::ExitCode};

use clap_complete::Shell;

/// Flags of `weir completion`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The shell to write for.
    #[arg(value_enum)]
    shell: Shell,
}

/// Writes the completion script of `command` to standard output.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(args: &Args, command: &mut clap::Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "weir", &mut script);
    io::Write::write_all(&mut io::stdout(), &script)?;
    Ok(ExitCode::SUCCESS)
}
