//! The profiles inside the binary; the same files lie in `profiles/`.

/// A profile that needs no file.
#[derive(Debug)]
pub struct Shipped {
    pub name: &'static str,
    pub text: &'static str,
}

macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        &[$(Shipped { name: $name, text: include_str!(concat!("../../profiles/", $name, ".toml")) }),+]
    };
}

pub const SHIPPED: &[Shipped] = shipped!["hello", "node14", "node22", "python3", "rust", "go", "debian", "build", "untrusted"];
