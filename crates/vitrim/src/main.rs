//! The command line: parses, runs, prints.

use std::process::ExitCode;

use clap::Parser;

mod cli;

fn main() -> ExitCode {
    cli::report_panics();
    match cli::run(cli::Args::parse()) {
        Ok(code) => code,
        Err(error) => cli::report(&error),
    }
}
