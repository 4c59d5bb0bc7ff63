//! A network that breaks: a relay before a registry, which cuts connections.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The relay; it ends with the test.
pub struct Cutting {
    port: u16,
    cuts: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Cutting {
    /// Relays to `port` of this machine. A connection is cut in both directions once it has carried so many bytes to the registry, or from
    /// it, as `limit` says for the number of cuts that there have been; `None`: never.
    pub fn before(port: u16, limit: impl Fn(usize) -> Option<(Direction, usize)> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let own = listener.local_addr().expect("address").port();
        let (cuts, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end, limit) = (Arc::clone(&cuts), Arc::clone(&stop), Arc::new(limit));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                for direction in [Direction::To, Direction::From] {
                    let (client, server) = (client.try_clone().expect("clone"), server.try_clone().expect("clone"));
                    let (count, limit) = (Arc::clone(&count), Arc::clone(&limit));
                    std::thread::spawn(move || {
                        let (from, to) = if direction == Direction::To { (client, server) } else { (server, client) };
                        relay(&from, &to, || limit(count.load(Ordering::Relaxed)).filter(|(way, _)| *way == direction), &count);
                    });
                }
            }
        });
        Self { port: own, cuts, stop }
    }

    pub fn reference(&self, name: &str) -> String {
        format!("localhost:{}/{name}", self.port)
    }

    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    To,
    From,
}

impl Drop for Cutting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listener up.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

fn relay(mut from: &TcpStream, mut to: &TcpStream, limit: impl Fn() -> Option<(Direction, usize)>, cuts: &AtomicUsize) {
    let (mut buffer, mut carried) = (vec![0; 64 << 10], 0);
    // Ignoring, here and below: what is gone need not be ended.
    while let Ok(count) = from.read(&mut buffer) {
        let left = limit().map_or(usize::MAX, |(_, most)| most.saturating_sub(carried));
        if count == 0 || to.write_all(&buffer[..count.min(left)]).is_err() {
            break;
        }
        carried += count;
        if count > left {
            cuts.fetch_add(1, Ordering::Relaxed);
            let _ = from.shutdown(Shutdown::Both);
            break;
        }
    }
    let _ = to.shutdown(if limit().is_some_and(|(_, most)| carried > most) { Shutdown::Both } else { Shutdown::Write });
}
