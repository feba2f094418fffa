//! The host's links and addresses, over rtnetlink. The only file that knows that crate.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::{Error, Handle, new_connection};
use rustix::io::Errno;
use tokio_util::task::AbortOnDropHandle;

/// A netlink connection of this process. Changing links waits for locks of the kernel's, in the thread that sends the request and for
/// some hundredths of a second: nothing for a server at work, see [`remove`].
#[derive(Debug)]
pub(in crate::local) struct Links {
    handle: Handle,
    _connection: AbortOnDropHandle<()>,
}

impl Links {
    /// Opens the connection. It lives in the network namespace that this thread is in.
    pub(in crate::local) fn open() -> io::Result<Self> {
        let (connection, handle, _) = new_connection()?;
        Ok(Self { handle, _connection: AbortOnDropHandle::new(tokio::spawn(connection)) })
    }

    /// Removes the link `name`, and with it the other end of a pair. One that is not there is removed already.
    pub(in crate::local) async fn remove(&self, name: &str) -> io::Result<()> {
        let Some(index) = self.index(name).await? else { return Ok(()) };
        match self.handle.link().del(index).execute().await {
            Err(error) if is(&error, Errno::NODEV) => Ok(()),
            other => other.map_err(io_error),
        }
    }

    /// Names of all links that begin with `prefix`.
    pub(in crate::local) async fn names(&self, prefix: &str) -> io::Result<Vec<String>> {
        use rtnetlink::packet_route::link::LinkAttribute;
        let links: Vec<_> = self.handle.link().get().execute().try_collect().await.map_err(io_error)?;
        let names = links
            .into_iter()
            .flat_map(|link| link.attributes)
            .filter_map(|attribute| if let LinkAttribute::IfName(name) = attribute { Some(name) } else { None });
        Ok(names.filter(|name| name.starts_with(prefix)).collect())
    }

    /// Gives the loopback interface `address`, marked with `label`, which begins with `lo:`. False when it has the address already
    /// under another mark: it is somebody else's.
    pub(super) async fn add_address(&self, address: Ipv4Addr, label: &str) -> io::Result<bool> {
        let index = self.loopback().await?;
        let mut request = self.handle.address().add(index, IpAddr::V4(address), 32);
        request.message_mut().attributes.push(AddressAttribute::Label(label.to_owned()));
        match request.execute().await {
            Ok(()) => Ok(true),
            Err(error) if is(&error, Errno::EXIST) => {
                let held = self.held(index, address).await?;
                Ok(held.is_some_and(|message| message.attributes.contains(&AddressAttribute::Label(label.to_owned()))))
            }
            Err(error) => Err(io_error(error)),
        }
    }

    /// Takes `address` from the loopback interface again.
    pub(super) async fn remove_address(&self, address: Ipv4Addr) -> io::Result<()> {
        let index = self.loopback().await?;
        let Some(message) = self.held(index, address).await? else { return Ok(()) };
        self.handle.address().del(message).execute().await.map_err(io_error)
    }

    async fn held(
        &self,
        index: u32,
        address: Ipv4Addr,
    ) -> io::Result<Option<rtnetlink::packet_route::address::AddressMessage>> {
        let get = self.handle.address().get().set_link_index_filter(index).set_address_filter(IpAddr::V4(address));
        let messages: Vec<_> = get.execute().try_collect().await.map_err(io_error)?;
        Ok(messages.into_iter().next())
    }

    async fn loopback(&self) -> io::Result<u32> {
        self.index("lo").await?.ok_or_else(|| io::Error::other("there is no loopback interface"))
    }

    async fn index(&self, name: &str) -> io::Result<Option<u32>> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        match links.try_next().await {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(error) if is(&error, Errno::NODEV) => Ok(None),
            Err(error) => Err(io_error(error)),
        }
    }
}

/// Removes the link `name` on a thread of its own.
pub(in crate::local) async fn remove(name: String) -> io::Result<()> {
    let removed = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async { Links::open()?.remove(&name).await })
    });
    removed.await.map_err(io::Error::other)?
}

fn is(error: &Error, errno: Errno) -> bool {
    matches!(error, Error::NetlinkError(message) if message.raw_code() == -errno.raw_os_error())
}

fn io_error(error: Error) -> io::Error {
    if let Error::NetlinkError(message) = &error { message.to_io() } else { io::Error::other(error) }
}
