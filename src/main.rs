use std::process::ExitCode;

#[global_allocator]
static MEMORY: hamper::sys::Bump = hamper::sys::Bump::new();

fn main() -> ExitCode {
    hamper::cli::main()
}
