//! A leaf in the libp2p network of exo 1.0.71: it dials exo nodes, publishes, and receives what it subscribed to.
//!
//! One `Node` is one thread. Events wait in a bounded queue; a socket, which Python's event loop watches, becomes
//! readable when the first one comes and ends when the thread does. Nothing here calls into Python.

mod guard;
mod inbox;
mod swarm;

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use libp2p::{Multiaddr, PeerId, identity};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::sync::mpsc;

use inbox::{Event, Inbox};
use swarm::Command;

/// Messages on their way out; one that finds no room is refused.
const ROOM_OUT: usize = 1024;

fn wrong(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// `Node(key, secret, topics, listen="")`: 32 bytes of an ed25519 key, the 32 bytes that all nodes of a network share,
/// the topics to subscribe to, and an address to listen at, if it is to listen.
#[pyclass(frozen, module = "exo_libp2p")]
struct Node {
    /// The peer id.
    #[pyo3(get)]
    id: String,
    inbox: Arc<Inbox>,
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[pymethods]
impl Node {
    #[new]
    #[pyo3(signature = (key, secret, topics, listen = ""))]
    fn new(key: [u8; 32], secret: [u8; 32], topics: Vec<String>, listen: &str) -> PyResult<Self> {
        let key = identity::Keypair::ed25519_from_bytes(key).map_err(wrong)?;
        let id = PeerId::from(key.public()).to_base58();
        let listen: Option<Multiaddr> = if listen.is_empty() { None } else { Some(listen.parse().map_err(wrong)?) };
        let (inbox, end) = Inbox::open()?;
        let inbox = Arc::new(inbox);
        let (sender, receiver) = mpsc::channel(ROOM_OUT);
        let filled = inbox.clone();
        let thread = std::thread::Builder::new().name("exo-libp2p".into()).spawn(move || {
            // The end of this thread, whatever ends it, is the end of the socket.
            let _end = end;
            if let Err(error) = swarm::run(key, secret, &topics, listen, receiver, &filled) {
                filled.put(Event::Failed(error.to_string()));
            }
        })?;
        Ok(Self { id, inbox, commands: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) })
    }

    /// The descriptor that is readable while events wait, and at its end once the thread has ended.
    fn fileno(&self) -> i32 {
        self.inbox.reader().as_raw_fd()
    }

    /// All events that wait, and whether the thread has ended: tuples of a kind and up to three texts or bytes.
    ///
    /// `("message", peer, topic, payload)`, `("subscribed", peer, topic)`, `("up", peer, address)`, `("down", peer)`,
    /// `("listening", address)`, `("failed", why)`.
    fn receive<'py>(&self, py: Python<'py>) -> PyResult<(Vec<Bound<'py, PyAny>>, bool)> {
        let (events, over) = self.inbox.take();
        let events = events.into_iter().map(|event| as_tuple(py, event)).collect::<PyResult<_>>()?;
        Ok((events, over))
    }

    /// Hand a message over; false if there is no room for it.
    fn publish(&self, topic: String, payload: &[u8]) -> bool {
        self.order(Command::Publish(topic, payload.to_vec()))
    }

    /// Connect to this address now, and again whenever no connection to it is left; false if there is no room.
    fn dial(&self, address: &str) -> PyResult<bool> {
        Ok(self.order(Command::Dial(address.parse().map_err(wrong)?)))
    }

    /// Events that found no room since the start.
    #[getter]
    fn dropped(&self) -> u64 {
        self.inbox.dropped()
    }

    /// Begin to close all connections. The descriptor comes to its end when that is done.
    fn stop(&self) {
        self.commands.lock().unwrap().take();
    }

    /// Wait for the end of the thread; after the descriptor's end that takes no time.
    fn join(&self, py: Python<'_>) -> PyResult<()> {
        self.stop();
        let thread = self.thread.lock().unwrap().take();
        match thread.map(|thread| py.detach(|| thread.join())) {
            Some(Err(_)) => Err(PyOSError::new_err("the thread of exo_libp2p broke off")),
            _ => Ok(()),
        }
    }
}

impl Node {
    fn order(&self, command: Command) -> bool {
        self.commands.lock().unwrap().as_ref().is_some_and(|sender| sender.try_send(command).is_ok())
    }
}

fn as_tuple(py: Python<'_>, event: Event) -> PyResult<Bound<'_, PyAny>> {
    Ok(match event {
        Event::Message(peer, topic, payload) => {
            ("message", peer.to_base58(), topic, PyBytes::new(py, &payload)).into_pyobject(py)?.into_any()
        }
        Event::Subscribed(peer, topic) => ("subscribed", peer.to_base58(), topic).into_pyobject(py)?.into_any(),
        Event::Up(peer, address) => ("up", peer.to_base58(), address.to_string()).into_pyobject(py)?.into_any(),
        Event::Down(peer) => ("down", peer.to_base58()).into_pyobject(py)?.into_any(),
        Event::Listening(address) => ("listening", address.to_string()).into_pyobject(py)?.into_any(),
        Event::Failed(why) => ("failed", why).into_pyobject(py)?.into_any(),
    })
}

#[pymodule]
fn exo_libp2p(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Node>()
}
