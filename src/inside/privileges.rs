//! Gives up what only the view of the file system needed, before the program is executed.

use anyhow::{Context, Result, bail};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// Leaves root's program the capabilities of `bounding` and another user's none, for good: the
/// bounding set holds through every execve (capabilities(7)).
///
/// # Errors
/// One of them stays. The program must then not run.
pub fn reduce(bounding: u64) -> Result<()> {
    let kept = CapabilitySet::from_bits_retain(bounding);
    clear_ambient_capability_set().context("cannot give up ambient capabilities")?;
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        // The kernel knows fewer than the mask has bits.
        let Ok(true) = capability_is_in_bounding_set(one) else { continue };
        if !kept.contains(one) {
            remove_capability_from_bounding_set(one).with_context(|| format!("cannot give up capability {bit}"))?;
        }
    }
    let held = capabilities(None).context("cannot tell the own capabilities")?;
    let is_root = rustix::process::geteuid().is_root();
    let left = if is_root { held.permitted & kept } else { CapabilitySet::empty() };
    let sets = CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).context("cannot give up capabilities")?;
    if capability_is_in_bounding_set(CapabilitySet::SYS_ADMIN).context("cannot tell the own capabilities")? {
        bail!("CAP_SYS_ADMIN could not be given up, so nothing was run");
    }
    Ok(())
}
