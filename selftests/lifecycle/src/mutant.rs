// SPDX-License-Identifier: GPL-2.0-only

//! Seeded bugs: what the checker must catch.

/// A bug, seeded into what the life cycle stands upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// None: the code as it is.
    None,
    /// Unloading does not take the CPUs down before the memory is freed.
    FreeWhileUp,
    /// A CPU is taken by what was kept of its registers the first time.
    NoKeeping,
    /// An IPI to all leaves the last CPU out.
    SkipLast,
    /// Shutdown does not close the gate.
    NoClosing,
    /// A guest is entered without a look at the CPU's state.
    RunAnyway,
    /// A callback of hotplug takes the hotplug lock.
    LockInCallback,
    /// insmod does not look whether the gate has been closed meanwhile.
    NoLastLook,
    /// insmod does not take down the CPUs that were up when one refused.
    NoRollback,
    /// A CPU does not see the gate.
    BlindToGate,
    /// A CPU forgets that it was ours when it went to sleep.
    ForgetNap,
    /// The state of a CPU changes under the hands of a hook: it was ours at the first look, and is at the stub at the next.
    TakenTwice,
    /// A sleeping CPU is not taken down before it sleeps.
    NoNap,
    /// Nobody cleans the image after hibernation.
    NoCleaning,
    /// What a fault has left to do is not done.
    NoSettling,
    /// A CPU that a stub call has given back is not counted as given back.
    NoCounting,
    /// A reset is thought to be done when it was the stub that answered.
    BlindToStub,
    /// A reset is thought to be done when EL2 says so.
    BelieveAnswers,
    /// The memory of a CPU whose EL2 cannot be given back is freed with the rest.
    NoAbandoning,
    /// A fault does not close the gate.
    NoRaising,
    /// A guest is entered on a CPU in Hyp, whatever has happened elsewhere.
    RunAfterFault,
    /// A notifier is forgotten when the module goes.
    NoUnregistering,
    /// Registers are not compared when a CPU is given back.
    NoComparing,
}
