//! How commands reach registries. A start whose image is in the store never comes here.

use std::sync::Arc;

use super::progress::Display;
use crate::image::{self, Reference, Remote};
use crate::registry::{Client, Error, Settings};

/// A client with what the user has said about registries; nothing has been asked yet.
///
/// # Errors
/// [`Error::File`] for settings that cannot be used.
pub fn client(display: &Arc<Display>) -> Result<Arc<Client>, Error> {
    let settings = Settings::read(&|name| std::env::var_os(name))?;
    let display = Arc::clone(display);
    Ok(Arc::new(Client::new(settings, Some(Box::new(move |event| display.registry(event))))))
}

/// What reaches the repository of a reference; its errors are those of [`client`].
pub fn reach(display: &Arc<Display>) -> impl Fn(&Reference) -> Result<Arc<dyn Remote>, image::Error> + use<> {
    let display = Arc::clone(display);
    move |reference| Ok(Arc::new(client(&display)?.repository(reference)))
}
