//! All links that a router measures.

use std::collections::BTreeMap;

use hearth_proto::limits::LINKS_MAX;
use hearth_proto::{Classified, ErrorKind, Tier};

use super::link::{LinkModel, LinkSpeed, Transfer};
use super::range::RangeError;

/// The way that bytes take from where they lie to a worker. Whoever uses [`Links`] gives out the numbers, say one for
/// each pair of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u64);

/// One link: the tier in which the bytes lie, and the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId {
    /// The tier at the far end.
    pub tier: Tier,
    /// The way from there.
    pub path: PathId,
}

/// A [`LinkModel`] for each link, up to [`LINKS_MAX`].
#[derive(Clone, Debug, Default)]
pub struct Links {
    models: BTreeMap<LinkId, LinkModel>,
}

/// What was not taken in about a link.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum LinkError {
    /// The transfer is absurd; who sent it is broken.
    #[error(transparent)]
    Absurd(#[from] RangeError),
    /// Nobody added this link; add it with its prior.
    #[error("the link is not known; add it before reporting about it")]
    Unknown,
    /// There are [`LINKS_MAX`] links already; remove those of workers that are gone.
    #[error("{LINKS_MAX} links are measured already; remove those of workers that are gone")]
    Full,
}

impl Classified for LinkError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Absurd(error) => error.kind(),
            Self::Unknown => ErrorKind::FixRequest,
            Self::Full => ErrorKind::Stop,
        }
    }
}

impl Links {
    /// Adds a link with what is assumed of it; one that is there already stays as it is.
    ///
    /// # Errors
    /// [`LinkError::Full`]; the caller removes the links of workers that are gone.
    pub fn add(&mut self, id: LinkId, prior: LinkSpeed) -> Result<(), LinkError> {
        if !self.models.contains_key(&id) {
            if self.models.len() >= LINKS_MAX {
                return Err(LinkError::Full);
            }
            self.models.insert(id, LinkModel::new(prior));
        }
        Ok(())
    }

    /// Forgets a link.
    pub fn remove(&mut self, id: LinkId) {
        self.models.remove(&id);
    }

    /// Learns from a transfer.
    ///
    /// # Errors
    /// [`LinkError::Absurd`] of what no link does, [`LinkError::Unknown`] of a link that was not added.
    pub fn report(&mut self, id: LinkId, transfer: Transfer) -> Result<(), LinkError> {
        Ok(self.models.get_mut(&id).ok_or(LinkError::Unknown)?.report(transfer)?)
    }

    /// A link, to say what is in flight on it.
    pub fn model_mut(&mut self, id: LinkId) -> Option<&mut LinkModel> {
        self.models.get_mut(&id)
    }

    /// How fast a link is for whoever comes next; `None` of one that was not added.
    pub fn speed(&self, id: LinkId) -> Option<LinkSpeed> {
        self.models.get(&id).map(LinkModel::speed)
    }
}
