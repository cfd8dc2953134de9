//! Peers that mean ill, for tests: `hostile KIND...` prints an address for each kind, and sends whoever connects to it
//! that kind of nonsense behind a handshake that is right, over and over.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox};
use libp2p::core::transport::{Boxed, ListenerId, TransportEvent};
use libp2p::core::upgrade::Version;
use libp2p::futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::pnet::{PnetConfig, PreSharedKey};
use libp2p::{PeerId, Transport, identity, noise, tcp, yamux};

const HELLO: &[u8] = b"\x13/multistream/1.0.0\n";
const GOSSIP: &[u8] = b"\x0f/meshsub/1.1.0\n";
const LONGEST: usize = 8 << 20;

fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 128 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Bytes with their length before them: a frame, and, behind a tag, a field of one.
fn framed(body: &[u8]) -> Vec<u8> {
    [number(body.len() as u64), body.to_vec()].concat()
}

fn field(tag: u8, body: &[u8]) -> Vec<u8> {
    [vec![tag], framed(body)].concat()
}

/// One blow; `round` makes each a new one.
fn blow(kind: &str, round: u64) -> Vec<u8> {
    let name = |index: u64| format!("{round:x}-{index:x}").into_bytes();
    let many = |number: u64, one: &dyn Fn(u64) -> Vec<u8>| (0..number).flat_map(one).collect::<Vec<u8>>();
    match kind {
        "noise" => {
            let mut state = round.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let noise: Vec<u8> = (0..4096)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state as u8
                })
                .collect();
            framed(&noise)
        }
        "lengths" => number([u64::MAX, (LONGEST + 1) as u64, LONGEST as u64, 1 << 40][round as usize % 4]),
        "halves" => [number(LONGEST as u64), vec![0; LONGEST - 1]].concat(),
        "subscriptions" => many(1000, &|_| framed(&field(10, &[&[8, 1][..], &field(18, b"global_events")].concat()))),
        "topics" => framed(&many(300_000, &|index| field(10, &[&[8, 1][..], &field(18, &name(index))].concat()))),
        "empty_subscriptions" => framed(&[10, 0].repeat(LONGEST / 2)),
        "empty_messages" => framed(&[18, 0].repeat(LONGEST / 2)),
        "empty_controls" => framed(&field(26, &[18, 0].repeat(LONGEST / 2 - 8))),
        "prunes" => framed(&field(26, &many(2000, &|index| field(34, &field(10, &name(index)))))),
        "have" => {
            let ids = many(5000, &|index| field(18, &name(index)));
            framed(&field(26, &field(10, &[field(10, b"global_events"), ids].concat())))
        }
        "do_not_want" => framed(&field(26, &field(42, &many(7, &|_| field(10, &[7; 1 << 20]))))),
        _ => panic!("no such kind: {kind}"),
    }
}

async fn stream(muxer: &mut StreamMuxerBox, kind: &str) -> Result<(), Box<dyn Error>> {
    let mut theirs: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
    let mut attack: Option<Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>>> = None;
    let kind = kind.to_owned();
    poll_fn(move |context| {
        let mut muxer = Pin::new(&mut *muxer);
        if let Poll::Ready(Err(error)) = muxer.as_mut().poll(context) {
            return Poll::Ready(Err(error.into()));
        }
        while let Poll::Ready(Ok(stream)) = muxer.as_mut().poll_inbound(context) {
            theirs.push(Box::pin(async move {
                let _ = answer(stream).await;
            }));
        }
        theirs.retain_mut(|one| one.as_mut().poll(context).is_pending());
        loop {
            if let Some(running) = &mut attack {
                match running.as_mut().poll(context) {
                    Poll::Ready(_) => attack = None,
                    Poll::Pending => return Poll::Pending,
                }
            }
            match muxer.as_mut().poll_outbound(context) {
                Poll::Ready(Ok(stream)) => attack = Some(Box::pin(strike(stream, kind.clone()))),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

async fn strike(mut stream: impl AsyncRead + AsyncWrite + Unpin, kind: String) -> std::io::Result<()> {
    stream.write_all(HELLO).await?;
    stream.write_all(GOSSIP).await?;
    for round in 0.. {
        stream.write_all(&blow(&kind, round)).await?;
        stream.flush().await?;
        if kind == "lengths" || kind == "halves" {
            break;
        }
    }
    // Whoever takes it for the beginning of a message waits for the rest of it.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    Ok(())
}

/// Agree to whatever protocol is proposed, and send everything back, as ping wants it, or nothing.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut hello = [0; HELLO.len()];
    stream.read_exact(&mut hello).await?;
    let mut length = [0; 1];
    stream.read_exact(&mut length).await?;
    let mut protocol = vec![0; length[0] as usize];
    stream.read_exact(&mut protocol).await?;
    stream.write_all(&[HELLO, &length, &protocol].concat()).await?;
    stream.flush().await?;
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        if protocol.starts_with(b"/ipfs/ping") {
            stream.write_all(&buffer[..read]).await?;
            stream.flush().await?;
        }
    }
}

fn transport(key: &identity::Keypair, secret: [u8; 32]) -> Result<Boxed<(PeerId, StreamMuxerBox)>, Box<dyn Error>> {
    Ok(tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .and_then(move |socket, _| PnetConfig::new(PreSharedKey::new(secret)).handshake(socket))
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(key)?)
        .multiplex(yamux::Config::default())
        .boxed())
}

async fn host(kind: String, secret: [u8; 32]) -> Result<(), Box<dyn Error>> {
    let key = identity::Keypair::generate_ed25519();
    let mut transport = transport(&key, secret)?;
    transport.listen_on(ListenerId::next(), "/ip4/127.0.0.1/tcp/0".parse()?)?;
    loop {
        match poll_fn(|context| Pin::new(&mut transport).poll(context)).await {
            TransportEvent::NewAddress { listen_addr, .. } => {
                println!("{kind} {listen_addr}/p2p/{}", key.public().to_peer_id());
            }
            TransportEvent::Incoming { upgrade, .. } => {
                let kind = kind.clone();
                tokio::spawn(async move {
                    if let Ok((_, mut muxer)) = upgrade.await {
                        let _ = stream(&mut muxer, &kind).await.map_err(|error| error.to_string());
                    }
                });
            }
            _ => {}
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let text = words.next().expect("the key in hexadecimal digits");
    let mut secret = [0; 32];
    for (index, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for kind in words {
            tokio::task::spawn(async move {
                if let Err(error) = host(kind, secret).await.map_err(|error| error.to_string()) {
                    eprintln!("{error}");
                }
            });
        }
        std::future::pending().await
    })
}
