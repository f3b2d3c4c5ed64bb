//! The ways of putting rules in force, and the choice between them.

use std::fmt;
use std::str::FromStr;

use crate::iptables::{self, Program, Saved, Variant};
use crate::nftables::{self, Netlink};
use crate::rules::{Chain, Family, RuleSet};

/// Which way is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A working iptables if there is one, else nf_tables over netlink.
    Auto,
    /// `iptables-restore` for nf_tables.
    IptablesNft,
    /// `iptables-restore` for the legacy tables.
    IptablesLegacy,
    /// nf_tables over netlink.
    Nftables,
}

impl Choice {
    /// Every choice.
    pub const ALL: [Self; 4] = [
        Self::Auto,
        Self::IptablesNft,
        Self::IptablesLegacy,
        Self::Nftables,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
            Self::Nftables => "nftables",
        }
    }
}

/// What the choice would apply, as text; looks for programs, and needs no privilege.
pub fn preview(choice: Choice, set: &RuleSet) -> String {
    let by_program = match choice {
        Choice::Auto => iptables::installed(),
        Choice::IptablesNft | Choice::IptablesLegacy => true,
        Choice::Nftables => false,
    };
    if by_program {
        iptables::apply_text(set, &Saved::default())
    } else {
        nftables::table(set).to_string()
    }
}

/// A name that no [`Choice`] has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no backend: choose auto, iptables-nft, iptables-legacy or nftables")]
pub struct UnknownChoice(String);

impl FromStr for Choice {
    type Err = UnknownChoice;

    fn from_str(name: &str) -> Result<Self, UnknownChoice> {
        Self::ALL
            .into_iter()
            .find(|choice| choice.name() == name)
            .ok_or_else(|| UnknownChoice(name.to_owned()))
    }
}

/// Why rules could not be put in force, removed or read back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// By iptables.
    #[error(transparent)]
    Iptables(#[from] iptables::Error),
    /// By netlink.
    #[error(transparent)]
    Nftables(#[from] nftables::Error),
}

/// A way that works here.
#[derive(Debug)]
pub enum Backend {
    /// The iptables programs.
    Iptables(Program),
    /// The kernel itself.
    Nftables(Netlink),
}

/// A rule that should be in force and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The chain it belongs to.
    pub chain: Chain,
    /// What it is for.
    pub purpose: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` in chain {}", self.purpose, self.chain.name())
    }
}

impl Backend {
    /// The backend for a choice.
    ///
    /// # Errors
    /// The chosen one does not work here.
    pub fn select(choice: Choice) -> Result<Self, Error> {
        match choice {
            Choice::Auto => match iptables::detect(None) {
                Ok(program) => Ok(Self::Iptables(program)),
                Err(_) => Ok(Self::Nftables(Netlink::open()?)),
            },
            Choice::IptablesNft => Ok(Self::Iptables(iptables::detect(Some(Variant::Nft))?)),
            Choice::IptablesLegacy => Ok(Self::Iptables(iptables::detect(Some(Variant::Legacy))?)),
            Choice::Nftables => Ok(Self::Nftables(Netlink::open()?)),
        }
    }

    /// Every backend that works here, in which an earlier run may have left rules: all, or the one chosen.
    ///
    /// # Errors
    /// The chosen one does not work here, or none does.
    pub fn select_all(choice: Choice) -> Result<Vec<Self>, Error> {
        if choice != Choice::Auto {
            return Ok(vec![Self::select(choice)?]);
        }
        let programs = iptables::detect_all().into_iter().map(Self::Iptables);
        let readable = |netlink: &Netlink| netlink.rules(Family::V4, nftables::TABLE).is_ok();
        let netlink = Netlink::open().ok().filter(readable).map(Self::Nftables);
        let mut backends: Vec<Self> = programs.chain(netlink).collect();
        if backends.is_empty() {
            backends.push(Self::select(choice)?);
        }
        Ok(backends)
    }

    /// What applies the rules of `family`, for logs.
    pub fn name(&self, family: Family) -> String {
        match self {
            Self::Iptables(program) => program.restore_name(family),
            Self::Nftables(_) => "nftables over netlink".to_owned(),
        }
    }

    /// Replaces whatever is ours in the family by `set`, all or nothing.
    ///
    /// # Errors
    /// The program or the kernel refused; nothing has changed then.
    pub fn apply(&self, set: &RuleSet) -> Result<(), Error> {
        match self {
            Self::Iptables(program) => program.apply(set)?,
            Self::Nftables(netlink) => netlink.replace(&nftables::table(set))?,
        }
        Ok(())
    }

    /// Removes whatever is ours from the family.
    ///
    /// # Errors
    /// As [`Backend::apply`].
    pub fn cleanup(&self, family: Family) -> Result<(), Error> {
        match self {
            Self::Iptables(program) => program.cleanup(family).map(drop)?,
            Self::Nftables(netlink) => netlink.delete(family, nftables::TABLE)?,
        }
        Ok(())
    }

    /// Reads the rules back and lists those of `set` that are not in force at their place.
    ///
    /// # Errors
    /// They could not be read.
    pub fn missing(&self, set: &RuleSet) -> Result<Vec<Missing>, Error> {
        match self {
            Self::Iptables(program) => Ok(program.saved(set.family)?.missing(set)),
            Self::Nftables(netlink) => {
                let in_force = netlink.rules(set.family, nftables::TABLE)?;
                Ok(nftables::missing(set, &in_force))
            }
        }
    }
}
