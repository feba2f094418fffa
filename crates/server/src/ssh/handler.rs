//! `russh`'s callbacks, turned into calls of ours. Nothing is decided here.

use std::sync::Arc;

use russh::keys::Certificate;
use russh::server::{
    Auth as Answer, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Disconnect, Pty};
use tokio_util::sync::CancellationToken;

use super::auth::{Auth, Login};
use super::connection::{Connection, Target};
use super::places::Place;
use super::settings::methods;
use super::{Link, Shared};
use crate::metrics::Reason;

/// One connection, before and after its login.
#[derive(Debug)]
pub(super) struct Visitor {
    shared: Arc<Shared>,
    /// Before the login.
    auth: Option<Auth>,
    link: Link,
    place: Arc<Place>,
    /// Cancelled at the login.
    arrived: CancellationToken,
    login: Option<Login>,
    connection: Option<Connection>,
}

impl Visitor {
    /// A connection that has not logged in. `arrived` is cancelled when it has.
    pub(super) fn new(
        shared: Arc<Shared>,
        auth: Auth,
        link: Link,
        place: Arc<Place>,
        arrived: CancellationToken,
    ) -> Self {
        Self { shared, auth: Some(auth), link, place, arrived, login: None, connection: None }
    }

    /// The attempts so far, if there may be one more.
    fn attempts(&mut self) -> Result<&mut Auth, russh::Error> {
        self.auth
            .as_mut()
            .filter(|_| self.login.is_none())
            .and_then(|auth| auth.one_more().then_some(auth))
            .ok_or(russh::Error::Disconnect)
    }

    /// Remembers whom to let in.
    fn answer(&mut self, login: Option<Login>) -> Answer {
        match login {
            Some(login) => {
                self.login = Some(login);
                Answer::Accept
            }
            None => refuse(),
        }
    }
}

/// The same whatever is wrong.
fn refuse() -> Answer {
    Answer::Reject { proceed_with_methods: Some(methods()), partial_success: false }
}

/// Answers a request on a channel, if its client wants to know.
fn reply(session: &mut Session, channel: ChannelId, good: bool) -> Result<(), russh::Error> {
    if good { session.channel_success(channel) } else { session.channel_failure(channel) }
}

impl Handler for Visitor {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<Answer, Self::Error> {
        Ok(refuse())
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Answer, Self::Error> {
        let login = self.attempts()?.password(user, password).await;
        Ok(self.answer(login))
    }

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Answer, Self::Error> {
        let known = self.attempts()?.offered(user, offer.public_key, offer.algorithm).await;
        Ok(if known { Answer::Accept } else { refuse() })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Answer, Self::Error> {
        let login = self.attempts()?.public_key(user, key.public_key, key.algorithm).await;
        Ok(self.answer(login))
    }

    /// Certificates say by whom and for what they may be used; nobody here would see to that.
    async fn auth_openssh_certificate(&mut self, _: &str, _: &Certificate) -> Result<Answer, Self::Error> {
        Ok(refuse())
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _: &str,
        _: &str,
        _: Option<Response<'a>>,
    ) -> Result<Answer, Self::Error> {
        Ok(refuse())
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), Self::Error> {
        let Some(login) = self.login.take() else { return Ok(()) };
        self.auth = None;
        if let Err(full) = self.place.settle(login.kept.id()) {
            self.shared.metrics.ssh_refused.get_or_create(&Reason { reason: full.word() }).inc();
            return session.disconnect(Disconnect::TooManyConnections, &full.to_string(), "");
        }
        self.arrived.cancel();
        let (link, shared) = (self.link.clone(), Arc::clone(&self.shared));
        self.connection = Some(Connection::begin(login, link, session.handle(), shared));
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(connection) = &mut self.connection {
            connection.open_session(channel, reply).await;
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(connection) = &mut self.connection {
            connection.open_direct(channel, Target::Tcp(host.to_owned(), port), reply).await;
        }
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(connection) = &mut self.connection {
            connection.open_direct(channel, Target::Unix(path.to_owned()), reply).await;
        }
        Ok(())
    }

    async fn channel_open_x11(
        &mut self,
        channel: Channel<Msg>,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(connection) = &self.connection {
            connection.refuse(channel, reply, ChannelOpenFailure::AdministrativelyProhibited).await;
        }
        Ok(())
    }

    async fn channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(connection) = &self.connection {
            connection.refuse(channel, reply, ChannelOpenFailure::AdministrativelyProhibited).await;
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        width: u32,
        height: u32,
        modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let size = [columns, rows, width, height];
        let given = self.connection.as_mut().is_some_and(|connection| connection.pty(channel, term, size, modes));
        reply(session, channel, given)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let taken = self.connection.as_mut().is_some_and(|connection| connection.env(channel, name, value));
        reply(session, channel, taken)
    }

    async fn agent_request(&mut self, channel: ChannelId, _: &mut Session) -> Result<bool, Self::Error> {
        Ok(self.connection.as_mut().is_some_and(|connection| connection.agent(channel)))
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply(session, channel, false)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        let begun = self.connection.as_mut().is_some_and(|connection| connection.shell(channel));
        reply(session, channel, begun)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        line: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let begun = self.connection.as_mut().is_some_and(|connection| connection.command(channel, line));
        reply(session, channel, begun)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let begun = self.connection.as_mut().is_some_and(|connection| connection.subsystem(channel, name));
        reply(session, channel, begun)
    }

    async fn channel_close(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        if let Some(connection) = &mut self.connection {
            connection.closed(channel);
        }
        Ok(())
    }

    fn adjust_window(&mut self, channel: ChannelId, current: u32) -> u32 {
        match &mut self.connection {
            Some(connection) => connection.next_window(channel, current),
            None => current,
        }
    }

    async fn tcpip_forward(&mut self, address: &str, port: &mut u32, _: &mut Session) -> Result<bool, Self::Error> {
        match &mut self.connection {
            Some(connection) => Ok(connection.forward_tcp(address, port).await),
            None => Ok(false),
        }
    }

    async fn cancel_tcpip_forward(&mut self, address: &str, port: u32, _: &mut Session) -> Result<bool, Self::Error> {
        match &mut self.connection {
            Some(connection) => Ok(connection.cancel_tcp(address, port).await),
            None => Ok(false),
        }
    }

    async fn streamlocal_forward(&mut self, path: &str, _: &mut Session) -> Result<bool, Self::Error> {
        match &mut self.connection {
            Some(connection) => Ok(connection.forward_unix(path).await),
            None => Ok(false),
        }
    }

    async fn cancel_streamlocal_forward(&mut self, path: &str, _: &mut Session) -> Result<bool, Self::Error> {
        match &mut self.connection {
            Some(connection) => Ok(connection.cancel_unix(path).await),
            None => Ok(false),
        }
    }

    async fn authentication_banner(&mut self) -> Result<Option<String>, Self::Error> {
        Ok(None)
    }
}
