//! The swarm: what exo 1.0.71 speaks, with bounds, as a leaf that forwards nothing.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::upgrade::Version;
use libp2p::futures::StreamExt;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance, TopicHash, WhitelistSubscriptionFilter};
use libp2p::multiaddr::Protocol;
use libp2p::pnet::{PnetConfig, PreSharedKey};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, Transport, identity, noise, ping, tcp, yamux};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::guard::Guarded;
use crate::inbox::{Event, Inbox};

/// exo's own numbers. A connection that is not there before the next attempt is given up.
const PING: Duration = Duration::from_millis(2500);
const DIAL_AGAIN: Duration = Duration::from_secs(5);
const LONGEST: usize = 8 << 20;
/// All that an exo node subscribes to; a peer can subscribe to nothing else here.
const TOPICS: [&str; 5] = ["global_events", "local_events", "commands", "election_messages", "download_commands"];
/// Peers at once; each may hold one message of LONGEST that is not complete yet. Two nodes that dial each other at the
/// same moment have two connections.
const PEERS: u32 = 16;
const PER_PEER: u32 = 2;
const STREAMS: usize = 16;
/// Addresses that are dialled, all at once: silent ones must not keep a living one waiting. One without an answer for
/// two minutes is forgotten.
const ADDRESSES: usize = 64;
const ATTEMPTS: u32 = 24;
/// Ids of messages that are known, so that none comes twice: gossip repeats what is three seconds old, and no older.
const KNOWN: Duration = Duration::from_secs(6);
/// A connection is not closed for having nothing to do.
const IDLE: Duration = Duration::from_secs(1 << 30);

pub enum Command {
    Publish(String, Vec<u8>),
    Dial(Multiaddr),
}

type Gossip = gossipsub::Behaviour<gossipsub::IdentityTransform, WhitelistSubscriptionFilter>;

#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: connection_limits::Behaviour,
    ping: ping::Behaviour,
    gossip: Gossip,
}

fn behaviour(key: &identity::Keypair) -> Result<Behaviour, Box<dyn Error + Send + Sync>> {
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(PEERS))
        .with_max_pending_outgoing(Some(ADDRESSES as u32))
        .with_max_established(Some(PEERS * PER_PEER))
        .with_max_established_per_peer(Some(PER_PEER));
    // Each message waits for a verdict before it is forwarded, and gets `Ignore`: so this node is a leaf. It asks no
    // peer for messages that it claims to have: exo's log repairs what is lost, and gossipsub never forgets a claim.
    let config = gossipsub::ConfigBuilder::default()
        .max_transmit_size(LONGEST)
        .validation_mode(gossipsub::ValidationMode::Strict)
        .validate_messages()
        .max_ihave_messages(0)
        .duplicate_cache_time(KNOWN)
        .build()?;
    let topics = TOPICS.iter().map(|topic| IdentTopic::new(*topic).hash()).collect::<HashSet<_>>();
    let signed = gossipsub::MessageAuthenticity::Signed(key.clone());
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING).with_timeout(PING)),
        gossip: Gossip::new_with_subscription_filter(signed, config, WhitelistSubscriptionFilter(topics))?,
    })
}

fn build(key: identity::Keypair, secret: [u8; 32]) -> Result<Swarm<Behaviour>, Box<dyn Error>> {
    let swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_other_transport(|key| {
            let mut streams = yamux::Config::default();
            streams.set_max_num_streams(STREAMS);
            Ok(tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
                .and_then(move |socket, _| PnetConfig::new(PreSharedKey::new(secret)).handshake(socket))
                .upgrade(Version::V1Lazy)
                .authenticate(noise::Config::new(key)?)
                .multiplex(streams)
                .map(|(peer, connection), _| (peer, Guarded(connection))))
        })?
        .with_behaviour(behaviour)?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
        .with_connection_timeout(DIAL_AGAIN)
        .build();
    Ok(swarm)
}

/// Addresses that are to be connected to: how often each was tried in vain, and which connections were tried or opened.
#[derive(Default)]
struct Addresses {
    failures: HashMap<Multiaddr, u32>,
    dialled: HashMap<ConnectionId, Multiaddr>,
}

impl Addresses {
    fn add(&mut self, address: Multiaddr) -> bool {
        let room = self.failures.len() < ADDRESSES;
        if room || self.failures.contains_key(&address) {
            self.failures.insert(address, 0);
        }
        room
    }

    /// Those without a connection that no attempt is under way to: a second one would take the place of another's.
    fn missing(&self) -> Vec<Multiaddr> {
        let busy = self.dialled.values().collect::<HashSet<_>>();
        self.failures.keys().filter(|address| !busy.contains(*address)).cloned().collect()
    }

    fn failed(&mut self, id: &ConnectionId) {
        let Some(address) = self.dialled.remove(id) else { return };
        if let Some(failures) = self.failures.get_mut(&address) {
            *failures += 1;
            if *failures >= ATTEMPTS {
                self.failures.remove(&address);
            }
        }
    }

    fn opened(&mut self, id: &ConnectionId) {
        if let Some(address) = self.dialled.get(id) {
            self.failures.insert(address.clone(), 0);
        }
    }

    fn closed(&mut self, id: &ConnectionId) {
        self.dialled.remove(id);
    }
}

struct Leaf<'a> {
    swarm: Swarm<Behaviour>,
    addresses: Addresses,
    subscriptions: HashMap<PeerId, HashSet<TopicHash>>,
    inbox: &'a Inbox,
}

impl Leaf<'_> {
    fn dial(&mut self, address: Multiaddr) {
        let peer = address.iter().find_map(|part| if let Protocol::P2p(peer) = part { Some(peer) } else { None });
        // The default condition: no second connection to a peer that is connected or being dialled.
        let options = match peer {
            Some(peer) => DialOpts::peer_id(peer).addresses(vec![address.clone()]).build(),
            None => DialOpts::unknown_peer_id().address(address.clone()).build(),
        };
        let id = options.connection_id();
        if self.swarm.dial(options).is_ok() {
            self.addresses.dialled.insert(id, address);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Publish(topic, payload) => {
                // What nobody takes is sent again by the session, which waits for its echo.
                let _ = self.swarm.behaviour_mut().gossip.publish(IdentTopic::new(topic), payload);
            }
            Command::Dial(address) => {
                if self.addresses.add(address.clone()) && self.addresses.missing().contains(&address) {
                    self.dial(address);
                }
            }
        }
    }

    fn dial_again(&mut self) {
        for address in self.addresses.missing() {
            self.dial(address);
        }
    }

    fn hear(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(event)) => self.gossip(event),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { connection, result: Err(_), .. })) => {
                self.swarm.close_connection(connection);
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, num_established, .. } => {
                self.addresses.opened(&connection_id);
                if num_established.get() == 1 {
                    self.inbox.put(Event::Up(peer_id, endpoint.get_remote_address().clone()));
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.addresses.closed(&connection_id);
                if num_established == 0 {
                    self.subscriptions.remove(&peer_id);
                    self.inbox.put(Event::Down(peer_id));
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, .. } => self.addresses.failed(&connection_id),
            SwarmEvent::NewListenAddr { address, .. } => self.inbox.put(Event::Listening(address)),
            _ => {}
        }
    }

    fn gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let gossip = &mut self.swarm.behaviour_mut().gossip;
                gossip.report_message_validation_result(&message_id, &propagation_source, MessageAcceptance::Ignore);
                let from = message.source.unwrap_or(propagation_source);
                self.inbox.put(Event::Message(from, message.topic.into_string(), message.data));
            }
            gossipsub::Event::Subscribed { peer_id, topic } => {
                // Told once: a peer may repeat it as often as it likes.
                if self.subscriptions.entry(peer_id).or_default().insert(topic.clone()) {
                    self.inbox.put(Event::Subscribed(peer_id, topic.into_string()));
                }
            }
            gossipsub::Event::GossipsubNotSupported { peer_id } => {
                let _ = self.swarm.disconnect_peer_id(peer_id);
            }
            _ => {}
        }
    }
}

/// Returns when the last sender of commands has gone.
pub fn run(
    key: identity::Keypair,
    secret: [u8; 32],
    topics: &[String],
    listen: Option<Multiaddr>,
    mut commands: mpsc::Receiver<Command>,
    inbox: &Inbox,
) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut leaf =
            Leaf { swarm: build(key, secret)?, addresses: Addresses::default(), subscriptions: HashMap::new(), inbox };
        for topic in topics {
            leaf.swarm.behaviour_mut().gossip.subscribe(&IdentTopic::new(topic))?;
        }
        if let Some(address) = listen {
            leaf.swarm.listen_on(address)?;
        }
        let mut again = interval(DIAL_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => {
                        leaf.obey(command);
                        // The connections are tasks of this thread, and may not starve.
                        tokio::task::yield_now().await;
                    }
                    None => return Ok(()),
                },
                event = leaf.swarm.select_next_some() => leaf.hear(event),
                _ = again.tick() => leaf.dial_again(),
            }
        }
    })
}
