//! The `protocg` program.

fn main() -> std::process::ExitCode {
    protocg::cli::main()
}
