//! A network of its own for a cluster: each node in a network namespace, all on one bridge, so that links can be
//! cut. Everything goes when it is dropped.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, ensure};
use hearth_tests::NodeNetwork;

/// The bridge and the links of the nodes.
#[derive(Debug)]
pub(super) struct Network {
    bridge: String,
    /// The bridge's ends of the links.
    links: Vec<String>,
    nodes: Vec<NodeNetwork>,
}

/// Whether this process may make namespaces, and has the commands for it.
pub fn can_partition() -> bool {
    Network::new(1).is_ok()
}

impl Network {
    /// Makes the network.
    ///
    /// # Errors
    /// If the process is not root, or the commands `ip` and `bridge` are not there.
    pub(super) fn new(count: usize) -> anyhow::Result<Self> {
        let id = std::process::id();
        let subnet = |host: u8| Ipv4Addr::new(10, 20 + (id % 200) as u8, (id / 200 % 250) as u8, host);
        let mut network = Self { bridge: format!("hcb{id}"), links: Vec::new(), nodes: Vec::new() };
        let bridge = network.bridge.clone();
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
        Ok(network)
    }

    pub(super) fn nodes(&self) -> &[NodeNetwork] {
        &self.nodes
    }

    /// Cuts links: all of a node's, the one between two nodes, or all between nodes, while clients reach every one.
    pub(super) fn strike(&self, node: usize, other: usize, kind: u32) -> anyhow::Result<&'static str> {
        match kind {
            0 => {
                run("ip", &["link", "set", &self.links[node], "down"])?;
                Ok("cut off a node")
            }
            1 => {
                self.isolate(&[node, other])?;
                Ok("cut a link")
            }
            _ => {
                self.isolate(&(0..self.links.len()).collect::<Vec<_>>())?;
                Ok("cut all links")
            }
        }
    }

    /// Mends every link.
    pub(super) fn heal(&self) -> anyhow::Result<()> {
        for link in &self.links {
            run("bridge", &["link", "set", "dev", link, "isolated", "off"])?;
            run("ip", &["link", "set", link, "up"])?;
        }
        Ok(())
    }

    /// Nothing passes between these nodes.
    fn isolate(&self, nodes: &[usize]) -> anyhow::Result<()> {
        nodes
            .iter()
            .try_for_each(|node| run("bridge", &["link", "set", "dev", &self.links[*node], "isolated", "on"]))
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
