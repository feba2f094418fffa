//! `russh`'s callbacks, turned into calls of ours. Nothing is decided here.

use std::sync::Arc;

use russh::server::{Auth as Answer, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet, Pty};

use super::auth::{Auth, Login};
use super::connection::{Connection, Target};
use super::{Link, Shared};

/// One connection, before and after its login.
#[derive(Debug)]
pub(super) struct Visitor {
    auth: Auth,
    login: Option<Login>,
    connection: Option<Connection>,
    link: Link,
    shared: Arc<Shared>,
}

impl Visitor {
    /// A connection that has not logged in.
    pub(super) fn new(auth: Auth, link: Link, shared: Arc<Shared>) -> Self {
        Self { auth, login: None, connection: None, link, shared }
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

fn refuse() -> Answer {
    let methods = MethodSet::from(&[MethodKind::PublicKey, MethodKind::Password][..]);
    Answer::Reject { proceed_with_methods: Some(methods), partial_success: false }
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
        let login = self.auth.password(user, password).await;
        Ok(self.answer(login))
    }

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Answer, Self::Error> {
        Ok(if self.auth.offered(user, offer.public_key).await { Answer::Accept } else { refuse() })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Answer, Self::Error> {
        let login = self.auth.public_key(user, key.public_key).await;
        Ok(self.answer(login))
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), Self::Error> {
        if let Some(login) = self.login.take() {
            self.connection =
                Some(Connection::begin(login, self.link.clone(), session.handle(), Arc::clone(&self.shared)));
        }
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
        _: Channel<Msg>,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
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
