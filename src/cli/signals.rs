//! The signals that the process waits for, each kind in a thread of its own.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::mpsc;

/// From now on SIGINT and SIGTERM are delivered here, one item each, instead of ending the process.
pub fn endings() -> std::io::Result<mpsc::UnboundedReceiver<&'static str>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let (send, receive) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
            if send.send(name).is_err() {
                return;
            }
        }
    })?;
    Ok(receive)
}

/// From now on SIGHUP is delivered here, one item each, instead of ending the process.
pub fn hangups() -> std::io::Result<mpsc::UnboundedReceiver<()>> {
    let mut signals = Signals::new([SIGHUP])?;
    let (send, receive) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("hangups".to_owned()).spawn(move || {
        for _ in signals.forever() {
            if send.send(()).is_err() {
                return;
            }
        }
    })?;
    Ok(receive)
}
