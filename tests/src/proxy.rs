//! A proxy before Postgres that loses requests and answers: it reads the frontend/backend protocol as far as it must to know
//! which statement a connection is about to run, and when the server is done with it.
//!
//! An answer is lost *after the deed*: the server has reported that it is ready for the next query, so the statement's own
//! transaction is committed; the client hears nothing of it.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::postgres::Server;

/// What becomes of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is passed on, and so is its answer.
    Pass,
    /// The connection is cut before the server hears of it.
    LoseRequest,
    /// The server never hears of it, nor that the client has gone, as when that one's machine stands still.
    Hold,
    /// The connection is cut after the server has done it and before the client hears of it.
    LoseAnswer,
    /// The server does it; the client waits for an answer that never comes, on a connection that stays open.
    Silence,
    /// The client reads nothing more of the answer, as a process that stands still: the server can send what fits between them.
    Stall,
    /// The answer comes late.
    Delay(Duration),
}

type Decide = dyn Fn(&str) -> Fate + Send + Sync;

/// A proxy, whose connections end when it is dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    server: u16,
    decide: Box<Decide>,
    over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
    lost: AtomicU64,
}

impl Proxy {
    /// Starts one; `decide` hears each statement's text before the server does.
    pub fn start(server: &Server, decide: impl Fn(&str) -> Fate + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            server: server.port(),
            decide: Box::new(decide),
            over: AtomicBool::new(false),
            open: Mutex::default(),
            lost: AtomicU64::new(0),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.over.load(Ordering::SeqCst) {
                    return;
                }
                // Where the server is away, so is this way to it: the client's connection is closed.
                let _ = accepting.clone().join(client);
            }
        });
        Self { port, shared }
    }

    /// The server's URL over it. Without TLS: the proxy reads along.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// How many statements it did not pass on and back.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        for stream in self.shared.open.lock().expect("nobody panics with it").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes whoever accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    /// Joins a client with the server.
    fn join(self: Arc<Self>, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(("127.0.0.1", self.server))?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            self.open.lock().expect("nobody panics with it").push(stream.try_clone()?);
        }
        let next = Arc::new(Mutex::new(Fate::Pass));
        let (of_client, of_server) = (client.try_clone()?, server.try_clone()?);
        let (there, back) = ((self.clone(), next.clone()), (self, next));
        let cut = |a: &TcpStream, b: &TcpStream| [a, b].map(|stream| stream.shutdown(Shutdown::Both));
        thread::spawn(move || {
            let _ = there.0.requests(&client, &of_server, &there.1);
            cut(&client, &of_server)
        });
        thread::spawn(move || {
            let _ = back.0.answers(&server, &of_client, &back.1);
            cut(&server, &of_client)
        });
        Ok(())
    }

    /// From the client to the server, until either is gone or a request is lost.
    fn requests(&self, client: &TcpStream, mut server: &TcpStream, next: &Mutex<Fate>) -> io::Result<()> {
        let mut client = BufReader::new(client);
        // The first message has no type.
        server.write_all(&message(&mut client, 0)?)?;
        let mut prepared: HashMap<Vec<u8>, String> = HashMap::new();
        loop {
            let message = message(&mut client, 1)?;
            let mut fields = message[5..].split(|byte| *byte == 0);
            let mut field = || fields.next().unwrap_or_default().to_vec();
            let statement = match message[0] {
                b'Q' => Some(String::from_utf8_lossy(&field()).into_owned()),
                b'P' => {
                    let name = field();
                    prepared.insert(name, String::from_utf8_lossy(&field()).into_owned());
                    None
                }
                // Portal, then statement.
                b'B' => {
                    field();
                    prepared.get(&field()).cloned()
                }
                _ => None,
            };
            if let Some(statement) = statement {
                let fate = (self.decide)(&statement);
                if matches!(fate, Fate::LoseRequest | Fate::Hold) {
                    self.lost.fetch_add(1, Ordering::SeqCst);
                    if fate == Fate::Hold {
                        // The other thread ends the connection with its server.
                        loop {
                            thread::park();
                        }
                    }
                    return Ok(());
                }
                *next.lock().expect("nobody panics with it") = fate;
            }
            server.write_all(&message)?;
        }
    }

    /// From the server to the client, until either is gone or an answer is lost.
    fn answers(&self, server: &TcpStream, mut client: &TcpStream, next: &Mutex<Fate>) -> io::Result<()> {
        let mut server = BufReader::new(server);
        let mut answer = Vec::new();
        loop {
            let message = message(&mut server, 1)?;
            let ready = message[0] == b'Z';
            answer.extend(message);
            let fate = *next.lock().expect("nobody panics with it");
            match fate {
                Fate::LoseAnswer | Fate::Silence if ready => {
                    self.lost.fetch_add(1, Ordering::SeqCst);
                    if fate == Fate::LoseAnswer {
                        return Ok(());
                    }
                    // Until the client has enough of waiting, which the other thread notices.
                    return io::copy(&mut server, &mut io::sink()).map(drop);
                }
                Fate::LoseAnswer | Fate::Silence => continue,
                Fate::Stall => {
                    self.lost.fetch_add(1, Ordering::SeqCst);
                    // The other thread ends the connection with its client.
                    loop {
                        thread::park();
                    }
                }
                Fate::Delay(by) if ready => thread::sleep(by),
                _ => {}
            }
            client.write_all(&std::mem::take(&mut answer))?;
        }
    }
}

/// The next message: `type_bytes` of a type, four of its length, which counts itself, and the rest.
fn message(from: &mut impl Read, type_bytes: usize) -> io::Result<Vec<u8>> {
    let mut message = vec![0; type_bytes + 4];
    from.read_exact(&mut message)?;
    let length = u32::from_be_bytes(message[type_bytes..].try_into().expect("four bytes"));
    message.resize(type_bytes + usize::try_from(length).expect("it fits"), 0);
    from.read_exact(&mut message[type_bytes + 4..])?;
    Ok(message)
}
