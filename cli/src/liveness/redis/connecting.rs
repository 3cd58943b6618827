//! Getting a connection to a real server, whichever way its URL says.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisFuture, RedisResult, TlsCertificates, TlsMode, Value};

use super::url::{Kind, RedisUrl};

/// Opens connections: to a real server, or to the simulator's.
pub trait Connect: Send + Sync + Clone + 'static {
    /// What it opens; clones share it.
    type Connection: ConnectionLike + Clone + Send + Sync + 'static;
    /// Opens one. It may be dropped at any time.
    fn connect(&self) -> impl Future<Output = RedisResult<Self::Connection>> + Send;
}

/// No single step of getting a connection takes longer.
const STEP: Duration = Duration::from_secs(1);

/// A server, or several, as a URL names them.
#[derive(Debug, Clone)]
pub struct RedisServer {
    url: RedisUrl,
    certificates: Option<TlsCertificates>,
}

/// A file of certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the certificates in {path}, which the Redis URL names")]
pub struct CaError {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub cause: std::io::Error,
}

impl RedisServer {
    /// The servers of this URL; nothing is connected yet.
    ///
    /// # Errors
    ///
    /// Where the URL names a file of certificates that cannot be read.
    pub fn new(url: RedisUrl) -> Result<Self, CaError> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|cause| CaError { path: path.clone(), cause });
        let root_cert = url.ca().map(read).transpose()?;
        let certificates = url.is_tls().then_some(TlsCertificates { client_tls: None, root_cert });
        Ok(Self { url, certificates })
    }

    async fn one(&self) -> RedisResult<MultiplexedConnection> {
        let server = self.url.servers()[0].clone();
        let client = match &self.certificates {
            Some(certificates) => Client::build_with_tls(server, certificates.clone())?,
            None => Client::open(server)?,
        };
        client.get_multiplexed_async_connection_with_config(&config()).await
    }

    /// Asks the Sentinels anew each time: another server may be the master by now.
    async fn behind_sentinels(&self, name: &str, password: Option<&String>) -> RedisResult<MultiplexedConnection> {
        let sentinels = self.url.servers().iter().map(|server| server.addr().clone());
        let mut builder = SentinelClientBuilder::new(sentinels, name, SentinelServerType::Master)?;
        let settings = self.url.servers()[0].redis_settings();
        builder = builder.set_client_to_redis_db(settings.db());
        if let Some(user) = settings.username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = settings.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(password) = password {
            builder = builder.set_client_to_sentinel_password(password);
        }
        if let Some(certificates) = &self.certificates {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_certificates(certificates.clone());
        }
        builder.build()?.get_async_connection_with_config(&config()).await
    }

    async fn cluster(&self) -> RedisResult<ClusterConnection> {
        let mut builder = ClusterClient::builder(self.url.servers().to_vec())
            .connection_timeout(STEP)
            .response_timeout(STEP)
            .retries(2);
        if let Some(certificates) = &self.certificates {
            builder = builder.certs(certificates.clone());
        }
        builder.build()?.get_async_connection().await
    }
}

/// Answers are waited for by whoever asks.
fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(STEP)).set_response_timeout(None)
}

impl Connect for RedisServer {
    type Connection = Connection;

    async fn connect(&self) -> RedisResult<Connection> {
        Ok(match self.url.kind() {
            Kind::One => Connection::One(self.one().await?),
            Kind::Sentinel { name, password } => Connection::One(self.behind_sentinels(name, password.as_ref()).await?),
            Kind::Cluster => Connection::Cluster(self.cluster().await?),
        })
    }
}

/// A connection to one server or to a cluster.
#[derive(Clone)]
pub enum Connection {
    /// To one server.
    One(MultiplexedConnection),
    /// To a cluster.
    Cluster(ClusterConnection),
}

macro_rules! with_connection {
    ($connection:expr, $inner:ident => $do:expr) => {
        match $connection {
            Connection::One($inner) => $do,
            Connection::Cluster($inner) => $do,
        }
    };
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        with_connection!(self, inner => inner.req_packed_command(cmd))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        with_connection!(self, inner => inner.req_packed_commands(pipeline, offset, count))
    }

    fn get_db(&self) -> i64 {
        with_connection!(self, inner => inner.get_db())
    }
}
