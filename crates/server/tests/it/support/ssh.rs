//! An SSH client that keeps all that it is told, for tests of what goes on after a login.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use boxyard_server::config::Config;
use russh::client::{self, AuthResult, ChannelOpenHandle, DisconnectReason, Handle, Msg, Session};
use russh::keys::PublicKeyOrCertificate;
use russh::{Channel, ChannelMsg, Sig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use super::{KEY, PATIENCE, Yard};

/// A logged-in connection.
pub struct Ssh {
    pub handle: Handle<Ears>,
    opened: Mutex<mpsc::UnboundedReceiver<Opened>>,
    farewell: Mutex<mpsc::UnboundedReceiver<String>>,
}

/// A channel that the server has opened.
pub struct Opened {
    pub channel: Channel<Msg>,
    /// What it is for: `tcp ADDRESS:PORT from HOST:PORT`, `unix PATH` or `agent`.
    pub what: String,
}

/// What the server tells a client of its own accord.
pub struct Ears {
    opened: mpsc::UnboundedSender<Opened>,
    farewell: mpsc::UnboundedSender<String>,
}

impl client::Handler for Ears {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel<Msg>,
        address: &str,
        port: u32,
        from: &str,
        from_port: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        let what = format!("tcp {address}:{port} from {from}:{from_port}");
        let _ = self.opened.send(Opened { channel, what });
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        let _ = self.opened.send(Opened { channel, what: format!("unix {path}") });
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        let _ = self.opened.send(Opened { channel, what: "agent".into() });
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        let text = match reason {
            DisconnectReason::ReceivedDisconnect(info) => info.message,
            DisconnectReason::Error(error) => error.to_string(),
        };
        let _ = self.farewell.send(text);
        Ok(())
    }
}

/// Everything that came out of a session.
#[derive(Default, PartialEq, Eq)]
pub struct Said {
    pub out: Vec<u8>,
    pub err: Vec<u8>,
    pub status: Option<u32>,
    pub signal: Option<String>,
    /// Whether the server said that no more would come, and closed the channel.
    pub eof: bool,
    pub closed: bool,
    /// Answers to requests, in their order.
    pub replies: Vec<bool>,
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = |bytes: &[u8]| format!("{} bytes: {}", bytes.len(), bytes[..bytes.len().min(300)].escape_ascii());
        f.debug_struct("Said")
            .field("out", &start(&self.out))
            .field("err", &start(&self.err))
            .field("status", &self.status)
            .field("signal", &self.signal)
            .field("eof", &self.eof)
            .field("closed", &self.closed)
            .field("replies", &self.replies)
            .finish()
    }
}

impl Said {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.err).into_owned()
    }

    fn add(&mut self, message: ChannelMsg) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "no server sends the rest")]
        match message {
            ChannelMsg::Data { data } => self.out.extend_from_slice(&data),
            ChannelMsg::ExtendedData { data, ext: 1 } => self.err.extend_from_slice(&data),
            ChannelMsg::ExitStatus { exit_status } => self.status = Some(exit_status),
            ChannelMsg::ExitSignal { signal_name, .. } => self.signal = Some(name(&signal_name)),
            ChannelMsg::Eof => self.eof = true,
            ChannelMsg::Close => self.closed = true,
            ChannelMsg::Success => self.replies.push(true),
            ChannelMsg::Failure => self.replies.push(false),
            ChannelMsg::WindowAdjusted { .. } => {}
            other => panic!("the server sent {other:?}"),
        }
    }
}

fn name(signal: &Sig) -> String {
    if let Sig::Custom(name) = signal { name.clone() } else { format!("{signal:?}") }
}

impl Yard {
    /// Starts a server with an SSH door.
    pub async fn with_door(change: impl FnOnce(&mut Config)) -> Self {
        Self::with(|config| {
            config.ssh = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
            change(config);
        })
        .await
    }

    /// Logs in to a box with the first account's key.
    pub async fn enter(&self, id: &str) -> Ssh {
        Ssh::login(self.ssh_address(), id, KEY).await
    }
}

impl Ssh {
    /// Connects and logs in.
    pub async fn login(address: SocketAddr, user: &str, key: &str) -> Self {
        let socket = TcpStream::connect(address).await.expect("connect");
        socket.set_nodelay(true).expect("a socket");
        Self::login_over(socket, client::Config::default(), user, key).await
    }

    /// Logs in over something that leads to the door.
    pub async fn login_over<S>(stream: S, config: client::Config, user: &str, key: &str) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (opened, opened_here) = mpsc::unbounded_channel();
        let (farewell, farewell_here) = mpsc::unbounded_channel();
        let ears = Ears { opened, farewell };
        let mut handle = client::connect_stream(Arc::new(config), stream, ears).await.expect("a connection");
        assert_eq!(handle.authenticate_password(user, key).await.expect("an answer"), AuthResult::Success);
        Self { handle, opened: Mutex::new(opened_here), farewell: Mutex::new(farewell_here) }
    }

    pub async fn session(&self) -> Channel<Msg> {
        self.handle.channel_open_session().await.expect("a session channel")
    }

    /// Begins a command.
    pub async fn begin(&self, command: &str) -> Channel<Msg> {
        let channel = self.session().await;
        channel.exec(false, command).await.expect("a connection");
        channel
    }

    /// Runs a command without input to its end.
    pub async fn run(&self, command: &str) -> Said {
        let mut channel = self.begin(command).await;
        channel.eof().await.expect("a connection");
        rest(&mut channel).await
    }

    /// The next channel that the server opens.
    pub async fn opened(&self) -> Opened {
        timeout(PATIENCE, async { self.opened.lock().await.recv().await })
            .await
            .expect("the server opens a channel")
            .expect("a connection")
    }

    /// Waits until the server ends the connection, and says what it said.
    pub async fn farewell(&self) -> String {
        timeout(PATIENCE, async { self.farewell.lock().await.recv().await })
            .await
            .expect("the server ends the connection")
            .expect("a reason")
    }
}

/// Everything until the channel closes.
pub async fn rest(channel: &mut Channel<Msg>) -> Said {
    until(channel, |said| said.closed).await
}

/// What comes until it is as wanted, or the channel is gone.
pub async fn until(channel: &mut Channel<Msg>, wanted: impl Fn(&Said) -> bool) -> Said {
    let mut said = Said::default();
    let reading = async {
        while !wanted(&said) {
            match channel.wait().await {
                Some(message) => said.add(message),
                None => break,
            }
        }
    };
    let ended = timeout(PATIENCE, reading).await;
    assert!(ended.is_ok(), "this is all that came: {said:?}");
    said
}
