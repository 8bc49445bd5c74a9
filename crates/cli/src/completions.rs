//! `hetra completions`

use std::process::ExitCode;

use anyhow::Result;
use clap::Command;
use clap_complete::Shell;

/// Print the completion script of a shell
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  hetra completions bash > ~/.local/share/bash-completion/completions/hetra
  hetra completions zsh > ~/.zfunc/_hetra
  hetra completions fish > ~/.config/fish/completions/hetra.fish")]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script for `command`, the whole program.
pub(crate) fn run(args: &Args, command: Command) -> Result<ExitCode> {
    let mut script = Vec::new();
    // The scripts would offer hidden verbs, too.
    let shown = command.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    let mut command = Command::new("hetra").version(env!("CARGO_PKG_VERSION")).subcommands(shown);
    clap_complete::generate(args.shell, &mut command, "hetra", &mut script);
    print!("{}", String::from_utf8_lossy(&script));
    Ok(ExitCode::SUCCESS)
}
