//! The bounded queue between the network's thread and Python, and the socket that tells of it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use libp2p::{Multiaddr, PeerId};

/// Messages that wait, and their bytes together. What is lost is asked for again from exo's log.
const ROOM: usize = 8192;
const ROOM_BYTES: usize = 32 << 20;

pub enum Event {
    Message(PeerId, String, Vec<u8>),
    Subscribed(PeerId, String),
    Up(PeerId, Multiaddr),
    Down(PeerId),
    Listening(Multiaddr),
    Failed(String),
}

impl Event {
    fn size(&self) -> usize {
        if let Event::Message(_, _, payload) = self { payload.len() } else { 0 }
    }
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    bytes: usize,
    dropped: u64,
}

pub struct Inbox {
    queue: Mutex<Queue>,
    reader: UnixStream,
    writer: UnixStream,
}

impl Inbox {
    /// The queue, and the handle whose drop brings the reader to its end.
    pub fn open() -> io::Result<(Self, End)> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        let end = End(writer.try_clone()?);
        Ok((Self { queue: Mutex::default(), reader, writer }, end))
    }

    pub fn reader(&self) -> &UnixStream {
        &self.reader
    }

    pub fn put(&self, event: Event) {
        let mut queue = self.queue.lock().unwrap();
        let size = event.size();
        let full = queue.events.len() >= ROOM || queue.bytes + size > ROOM_BYTES;
        if full && matches!(event, Event::Message(..)) {
            queue.dropped += 1;
            return;
        }
        queue.bytes += size;
        queue.events.push_back(event);
        if queue.events.len() == 1 {
            let _ = (&self.writer).write(&[0]); // at the end of the reader nobody listens any more
        }
    }

    pub fn take(&self) -> (VecDeque<Event>, bool) {
        let mut queue = self.queue.lock().unwrap();
        let mut waste = [0; 64];
        let over = loop {
            match (&self.reader).read(&mut waste) {
                Ok(0) => break true,
                Ok(_) => continue,
                Err(_) => break false,
            }
        };
        queue.bytes = 0;
        (std::mem::take(&mut queue.events), over)
    }

    pub fn dropped(&self) -> u64 {
        self.queue.lock().unwrap().dropped
    }
}

pub struct End(UnixStream);

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}
