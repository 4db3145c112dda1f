//! A network of its own for a cluster: each node in a network namespace, all on one bridge, so that links can be
//! cut. Everything goes when it is dropped.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, ensure};
use hearth_tests::NodeNetwork;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// The table of a namespace that says what is dropped there.
const TABLE: &str = "hearth";

/// The bridge and the links of the nodes.
#[derive(Debug)]
pub(super) struct Network {
    bridge: String,
    /// The bridge's ends of the links.
    links: Vec<String>,
    nodes: Vec<NodeNetwork>,
    /// Whether `nft` drops packets here: links can then be cut one way, and one by one.
    drops: bool,
}

/// What of a network can be cut here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cuts {
    /// Nothing: it takes root and the commands `ip` and `bridge`.
    None,
    /// Whole nodes, and both directions of links: the command `nft` is missing, or the kernel knows no such tables.
    Links,
    /// Single directions of links as well.
    Directions,
}

/// What this process may cut.
pub fn cuts() -> Cuts {
    match Network::new(1) {
        Ok(Network { drops: true, .. }) => Cuts::Directions,
        Ok(_) => Cuts::Links,
        Err(_) => Cuts::None,
    }
}

impl Network {
    /// Makes the network.
    ///
    /// # Errors
    /// If the process is not root, or the commands `ip` and `bridge` are not there.
    pub(super) fn new(count: usize) -> anyhow::Result<Self> {
        let id = std::process::id();
        let subnet = |host: u8| Ipv4Addr::new(10, 20 + (id % 200) as u8, (id / 200 % 250) as u8, host);
        let bridge = format!("hcb{id}");
        let mut network = Self { bridge: bridge.clone(), links: Vec::new(), nodes: Vec::new(), drops: false };
        run("ip", &["link", "add", &bridge, "type", "bridge"])?;
        run("ip", &["addr", "add", &format!("{}/24", subnet(1)), "dev", &bridge])?;
        run("ip", &["link", "set", &bridge, "up"])?;
        for index in 0..count {
            let (namespace, link) = (format!("hcn{id}-{index}"), format!("hcv{id}-{index}"));
            let address = subnet(10 + index as u8);
            run("ip", &["netns", "add", &namespace])?;
            network.nodes.push(NodeNetwork { namespace: namespace.clone(), address });
            run("ip", &["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
            network.links.push(link.clone());
            run("ip", &["link", "set", &link, "master", &bridge, "up"])?;
            run("ip", &["-n", &namespace, "addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
            run("ip", &["-n", &namespace, "link", "set", "eth0", "up"])?;
            run("ip", &["-n", &namespace, "link", "set", "lo", "up"])?;
        }
        network.drops = (0..count).try_for_each(|node| network.prepare_drops(node)).is_ok();
        Ok(network)
    }

    pub(super) fn nodes(&self) -> &[NodeNetwork] {
        &self.nodes
    }

    /// Cuts something, rather at this node: the node, links of it in one direction or both, or all links. Clients
    /// reach all nodes but one that is cut off.
    pub(super) fn strike(&self, node: usize, rng: &mut ChaCha8Rng) -> anyhow::Result<&'static str> {
        let others: Vec<usize> = (0..self.nodes.len()).filter(|other| *other != node).collect();
        let other = others[rng.random_range(0..others.len())];
        let kinds = if self.drops { 6 } else { 3 };
        match rng.random_range(0..kinds) {
            0 => {
                run("ip", &["link", "set", &self.links[node], "down"])?;
                Ok("cut off a node")
            }
            1 => {
                self.isolate(&(0..self.links.len()).collect::<Vec<_>>())?;
                Ok("cut all links")
            }
            2 if self.drops => {
                self.drop_from(node, other)?;
                self.drop_from(other, node)?;
                Ok("cut a link")
            }
            2 => {
                self.isolate(&[node, other])?;
                Ok("cut a link")
            }
            3 => {
                self.drop_from(node, other)?;
                Ok("cut a link one way")
            }
            4 => {
                others.iter().try_for_each(|other| self.drop_from(node, *other))?;
                Ok("a node hears no other")
            }
            _ => {
                others.iter().try_for_each(|other| self.drop_from(*other, node))?;
                Ok("no other hears a node")
            }
        }
    }

    /// Mends every link.
    pub(super) fn heal(&self) -> anyhow::Result<()> {
        for link in &self.links {
            run("bridge", &["link", "set", "dev", link, "isolated", "off"])?;
            run("ip", &["link", "set", link, "up"])?;
        }
        if self.drops {
            for node in 0..self.nodes.len() {
                self.nft(node, &["flush", "chain", "inet", TABLE, "arriving"])?;
            }
        }
        Ok(())
    }

    /// Nothing passes between these nodes.
    fn isolate(&self, nodes: &[usize]) -> anyhow::Result<()> {
        nodes
            .iter()
            .try_for_each(|node| run("bridge", &["link", "set", "dev", &self.links[*node], "isolated", "on"]))
    }

    fn prepare_drops(&self, node: usize) -> anyhow::Result<()> {
        self.nft(node, &["add", "table", "inet", TABLE])?;
        let hook = "{ type filter hook input priority 0; policy accept; }";
        self.nft(node, &["add", "chain", "inet", TABLE, "arriving", hook])
    }

    /// What one node sends does not arrive at another, also on connections that are open.
    fn drop_from(&self, at: usize, from: usize) -> anyhow::Result<()> {
        let from = self.nodes[from].address.to_string();
        self.nft(at, &["add", "rule", "inet", TABLE, "arriving", "ip", "saddr", &from, "drop"])
    }

    fn nft(&self, node: usize, arguments: &[&str]) -> anyhow::Result<()> {
        let within = ["netns", "exec", &self.nodes[node].namespace, "nft"];
        run("ip", &[&within[..], arguments].concat())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What is gone already needs no deletion.
        for link in &self.links {
            run("ip", &["link", "del", link]).ok();
        }
        for node in &self.nodes {
            run("ip", &["netns", "del", &node.namespace]).ok();
        }
        run("ip", &["link", "del", &self.bridge]).ok();
    }
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), said.trim());
    Ok(())
}
