//! The way between one worker and one server: a proxy of bytes, whose weather can change at any time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// What becomes of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// What the server says comes so much later.
    pub delay: Duration,
    /// Nothing moves, either way.
    pub stalled: bool,
    /// What goes this way is lost. A connection that has lost something never gets over it: it stays open and silent that way.
    pub loses: Option<Way>,
    /// Goes up when all connections are to be reset.
    resets: u64,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the worker to the server.
    There,
    /// From the server to the worker.
    Back,
}

/// After the first bytes of an answer, so much silence means that the server is done: then the connection is cut.
const ANSWERED: Duration = Duration::from_millis(15);

/// A proxy. Its connections end with the runtime.
#[derive(Debug)]
pub struct Link {
    port: u16,
    weather: watch::Sender<Weather>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    cuts_to_do: AtomicU64,
    cuts: AtomicU64,
    connections: AtomicU64,
}

impl Link {
    /// A way to a port on 127.0.0.1.
    pub fn start(runtime: &Handle, server: u16) -> Self {
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let (weather, seen) = watch::channel(Weather::default());
        let shared = Arc::new(Shared::default());
        runtime.spawn(accept(listener, SocketAddr::from(([127, 0, 0, 1], server)), seen, shared.clone()));
        Self { port, weather, shared }
    }

    /// Where workers connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the weather.
    pub fn change(&self, how: impl FnOnce(&mut Weather)) {
        self.weather.send_modify(how);
    }

    /// Resets all connections.
    pub fn reset(&self) {
        self.weather.send_modify(|weather| weather.resets += 1);
    }

    /// The connections of the next so many requests are cut once the server has done them and before its answers get back.
    pub fn cut_after(&self, requests: u64) {
        self.shared.cuts_to_do.store(requests, Ordering::SeqCst);
    }

    /// Fair weather. What has lost something stays as it is.
    pub fn heal(&self) {
        self.cut_after(0);
        self.weather.send_modify(|weather| *weather = Weather { resets: weather.resets, ..Weather::default() });
    }

    /// How many connections there are now.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many connections were cut after a request so far.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, weather: watch::Receiver<Weather>, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let (weather, shared) = (weather.clone(), shared.clone());
        // Where the server is away, so is this way to it: the client's connection is closed.
        tokio::spawn(async move {
            if let Ok(server) = TcpStream::connect(server).await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let _ = join(client, server, weather, &shared).await;
                shared.connections.fetch_sub(1, Ordering::SeqCst);
            }
        });
    }
}

async fn join(
    client: TcpStream,
    server: TcpStream,
    mut weather: watch::Receiver<Weather>,
    shared: &Shared,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let resets = weather.borrow().resets;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let asked = AtomicBool::new(false);
    let mut there = Pump { from: from_client, to: to_server, way: Way::There, weather: weather.clone(), lost: false };
    let mut back = Pump { from: from_server, to: to_client, way: Way::Back, weather: weather.clone(), lost: false };
    let is_reset = tokio::select! {
        _ = there.run(shared, &asked) => false,
        cut = back.run(shared, &asked) => matches!(cut, Ok(End::Cut)),
        _ = weather.wait_for(|weather| weather.resets != resets) => true,
    };
    if is_reset {
        for half in [&there.to, &back.to] {
            half.as_ref().set_zero_linger()?;
        }
        // Else they would say goodbye first.
        there.to.forget();
        back.to.forget();
    }
    Ok(())
}

enum End {
    Closed,
    Cut,
}

struct Pump {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    way: Way,
    weather: watch::Receiver<Weather>,
    lost: bool,
}

impl Pump {
    async fn run(&mut self, shared: &Shared, asked: &AtomicBool) -> io::Result<End> {
        let mut bytes = vec![0; 16 << 10];
        loop {
            let read = self.from.read(&mut bytes).await?;
            if read == 0 {
                return Ok(End::Closed);
            }
            let now = *self.weather.borrow();
            if self.way == Way::Back && !now.delay.is_zero() {
                tokio::time::sleep(now.delay).await;
            }
            let Ok(now) = self.weather.wait_for(|weather| !weather.stalled).await.map(|now| *now) else {
                return Ok(End::Closed);
            };
            self.lost |= now.loses == Some(self.way);
            if self.lost {
                continue;
            }
            match self.way {
                Way::There => {
                    let cut = |left: u64| left.checked_sub(1);
                    if shared.cuts_to_do.fetch_update(Ordering::SeqCst, Ordering::SeqCst, cut).is_ok() {
                        asked.store(true, Ordering::SeqCst);
                    }
                }
                Way::Back if asked.load(Ordering::SeqCst) => {
                    while let Ok(Ok(1..)) = tokio::time::timeout(ANSWERED, self.from.read(&mut bytes)).await {}
                    shared.cuts.fetch_add(1, Ordering::SeqCst);
                    return Ok(End::Cut);
                }
                Way::Back => {}
            }
            self.to.write_all(&bytes[..read]).await?;
        }
    }
}
