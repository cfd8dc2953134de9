//! What comes in on a stream is looked at before gossipsub parses it.
//!
//! A frame may have 8 MiB, and two bytes of it are enough for a message without anything, which takes some 300 bytes of
//! memory; and gossipsub keeps what a peer prunes for an hour, whatever its topic. So all that is no message has a price.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::futures::{AsyncRead, AsyncWrite};

/// Messages in one frame; exo sends one.
const MESSAGES: u32 = 256;
/// What a stream may spend at once, and in a second: bytes, and so many more for each part.
const ALLOWANCE: f64 = (512 << 10) as f64;
const RATE: f64 = (256 << 10) as f64;
const PART: u32 = 64;
/// Grafts and prunes; exo sends one of them for each topic, when it comes and when it goes.
const MESH: u32 = 16 << 10;
/// Fields of gossipsub's protobuf, all of them with a length.
const MESSAGE: u32 = 18;
const CONTROL: u32 = 26;
const GRAFT_PRUNE: [u32; 2] = [26, 34];
/// Its stream has no frames.
const PING: &[u8] = b"/ipfs/ping/1.0.0\n";

#[derive(Clone, Copy)]
enum Expected {
    FrameLength,
    Tag,
    /// A number that is the content of a field.
    Number,
    /// The length of the field with this tag.
    Length(u32),
    Content(u32),
}

/// Where in a stream of frames we are. It reads as gossipsub's parser does; what that refuses need not be refused here.
struct Frames {
    expected: Expected,
    number: u64,
    shift: u32,
    /// Bytes that are left of the frame, and of the control part in it.
    left: u32,
    control: u32,
    messages: u32,
    /// The frame's first bytes: a stream begins with the name of its protocol.
    name: Vec<u8>,
    is_ping: bool,
    allowance: f64,
    filled: Instant,
}

impl Frames {
    fn new() -> Self {
        Self {
            expected: Expected::FrameLength,
            number: 0,
            shift: 0,
            left: 0,
            control: 0,
            messages: 0,
            name: Vec::new(),
            is_ping: false,
            allowance: ALLOWANCE,
            filled: Instant::now(),
        }
    }

    fn pass(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() && !self.is_ping {
            let passed = match self.expected {
                Expected::Content(length) => length.min(self.left).min(bytes.len() as u32) as usize,
                _ => 1,
            };
            let (now, later) = bytes.split_at(passed);
            let in_control = self.control > 0;
            if !matches!(self.expected, Expected::FrameLength) {
                self.left -= passed as u32;
                self.control = self.control.saturating_sub(passed as u32);
                self.name.extend(&now[..passed.min(PING.len() + 1 - self.name.len())]);
            }
            match self.expected {
                Expected::Content(length) if length as usize > passed => {
                    self.expected = Expected::Content(length - passed as u32);
                }
                Expected::Content(_) => self.expected = Expected::Tag,
                _ => self.digit(now[0], in_control)?,
            }
            if self.left == 0 && !matches!(self.expected, Expected::FrameLength) {
                self.is_ping = self.name == PING;
                self.expected = Expected::FrameLength;
                (self.number, self.shift, self.control, self.messages) = (0, 0, 0, 0);
                self.name.clear();
            }
            bytes = later;
        }
        Ok(())
    }

    /// One byte of a number.
    fn digit(&mut self, byte: u8, in_control: bool) -> io::Result<()> {
        self.number |= u64::from(byte & 127) << self.shift;
        self.shift += 7;
        if byte >= 128 && self.shift < 64 {
            return Ok(());
        }
        let number = self.number;
        (self.number, self.shift) = (0, 0);
        // The parser takes the lower bits as well.
        let short = number as u32;
        self.expected = match self.expected {
            Expected::FrameLength => {
                self.left = u32::try_from(number).map_err(|_| refused())?;
                if self.left == 0 { Expected::FrameLength } else { Expected::Tag }
            }
            Expected::Tag => match short & 7 {
                0 => self.pay(PART, Expected::Number)?,
                1 => self.pay(PART, Expected::Content(8))?,
                2 => Expected::Length(short),
                5 => self.pay(PART, Expected::Content(4))?,
                _ => Expected::Content(self.left),
            },
            // The parser goes on behind the end of a part that a part of it exceeds.
            Expected::Length(_) if in_control && short > self.control => return Err(refused()),
            Expected::Length(MESSAGE) if !in_control => {
                self.messages += 1;
                if self.messages > MESSAGES {
                    return Err(refused());
                }
                Expected::Content(short)
            }
            Expected::Length(CONTROL) if !in_control => {
                self.control = short.min(self.left);
                self.pay(PART, Expected::Tag)?
            }
            Expected::Length(tag) => {
                let part = if in_control && GRAFT_PRUNE.contains(&tag) { MESH } else { PART };
                self.pay(part.saturating_add(short.min(self.left)), Expected::Content(short))?
            }
            Expected::Number | Expected::Content(_) => Expected::Tag,
        };
        // A field without content has none that could be waited for.
        if matches!(self.expected, Expected::Content(0)) {
            self.expected = Expected::Tag;
        }
        Ok(())
    }

    fn pay(&mut self, price: u32, next: Expected) -> io::Result<Expected> {
        let now = Instant::now();
        self.allowance = ALLOWANCE.min(self.allowance + (now - self.filled).as_secs_f64() * RATE) - f64::from(price);
        self.filled = now;
        if self.allowance < 0.0 { Err(refused()) } else { Ok(next) }
    }
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "more than exo has to say")
}

/// A connection whose streams from the other side are looked at.
pub struct Guarded<M>(pub M);

impl<M: StreamMuxer + Unpin> StreamMuxer for Guarded<M>
where
    M::Substream: Unpin,
{
    type Substream = GuardedStream<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        let stream = ready!(Pin::new(&mut self.0).poll_inbound(context))?;
        Poll::Ready(Ok(GuardedStream { stream, frames: Some(Frames::new()) }))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let stream = ready!(Pin::new(&mut self.0).poll_outbound(context))?;
        Poll::Ready(Ok(GuardedStream { stream, frames: None }))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.0).poll_close(context)
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Pin::new(&mut self.0).poll(context)
    }
}

pub struct GuardedStream<S> {
    stream: S,
    frames: Option<Frames>,
}

impl<S: AsyncRead + Unpin> AsyncRead for GuardedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(frames) = &mut self.frames {
            frames.pass(&buffer[..read])?;
        }
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GuardedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}
