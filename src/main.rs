use std::process::ExitCode;

fn main() -> ExitCode {
    hamper::cli::main()
}
