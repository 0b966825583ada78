// SPDX-License-Identifier: GPL-2.0-only

//! Common: calls of a guest to what plays firmware: numbers, and what is decided without looking at anything else.
//!
//! Source: Arm DEN 0028 (SMCCC), DEN 0022 (PSCI), DEN 0098 (TRNG), DEN 0057 (stolen time).

/// Function numbers. The upper half tells kind and owner (DEN 0028, 2.5).
pub mod call {
    /// SMCCC_VERSION.
    pub const VERSION: u32 = 0x8000_0000;
    /// SMCCC_ARCH_FEATURES.
    pub const ARCH_FEATURES: u32 = 0x8000_0001;
    /// SMCCC_ARCH_WORKAROUND_1: branch predictors (Spectre v2).
    pub const ARCH_WORKAROUND_1: u32 = 0x8000_8000;
    /// SMCCC_ARCH_WORKAROUND_3: branch history (Spectre BHB).
    pub const ARCH_WORKAROUND_3: u32 = 0x8000_3fff;
    /// TRNG_VERSION.
    pub const TRNG_VERSION: u32 = 0x8400_0050;
    /// TRNG_FEATURES.
    pub const TRNG_FEATURES: u32 = 0x8400_0051;
    /// TRNG_GET_UUID.
    pub const TRNG_GET_UUID: u32 = 0x8400_0052;
    /// TRNG_RND, 32 bits.
    pub const TRNG_RND32: u32 = 0x8400_0053;
    /// TRNG_RND, 64 bits.
    pub const TRNG_RND64: u32 = 0xc400_0053;
    /// PV_TIME_FEATURES.
    pub const PV_TIME_FEATURES: u32 = 0xc500_0020;
    /// PV_TIME_ST.
    pub const PV_TIME_ST: u32 = 0xc500_0021;
    /// The UID of the vendor's hypervisor services.
    pub const VENDOR_UID: u32 = 0x8600_ff01;
    /// The bitmap of these services.
    pub const VENDOR_FEATURES: u32 = 0x8600_0000;
    /// Wall clock and counter, read at once.
    pub const VENDOR_PTP: u32 = 0x8600_0001;
}

/// PSCI: function numbers, answers, and the numbers of versions.
pub mod psci {
    /// The 64-bit twin of a function.
    pub const SMC64: u32 = 1 << 30;
    /// PSCI_VERSION.
    pub const VERSION: u32 = 0x8400_0000;
    /// CPU_SUSPEND; has a 64-bit twin.
    pub const CPU_SUSPEND: u32 = 0x8400_0001;
    /// CPU_OFF.
    pub const CPU_OFF: u32 = 0x8400_0002;
    /// CPU_ON; has a 64-bit twin.
    pub const CPU_ON: u32 = 0x8400_0003;
    /// AFFINITY_INFO; has a 64-bit twin.
    pub const AFFINITY_INFO: u32 = 0x8400_0004;
    /// MIGRATE_INFO_TYPE.
    pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
    /// SYSTEM_OFF.
    pub const SYSTEM_OFF: u32 = 0x8400_0008;
    /// SYSTEM_RESET.
    pub const SYSTEM_RESET: u32 = 0x8400_0009;
    /// PSCI_FEATURES (1.0).
    pub const FEATURES: u32 = 0x8400_000a;
    /// SYSTEM_SUSPEND (1.0); has a 64-bit twin.
    pub const SYSTEM_SUSPEND: u32 = 0x8400_000e;
    /// SYSTEM_RESET2 (1.1); has a 64-bit twin.
    pub const SYSTEM_RESET2: u32 = 0x8400_0012;
    /// SYSTEM_OFF2 (1.3); has a 64-bit twin.
    pub const SYSTEM_OFF2: u32 = 0x8400_0015;
    /// CPU_OFF and CPU_ON as PSCI 0.1 has them: numbers that the device tree tells, so any will do. These are KVM's.
    pub const V0_1_FIRST: u32 = 0x95c1_ba5e;
    /// See [`V0_1_FIRST`].
    pub const V0_1_CPU_OFF: u32 = V0_1_FIRST + 1;
    /// See [`V0_1_FIRST`].
    pub const V0_1_CPU_ON: u32 = V0_1_FIRST + 2;
    /// See [`V0_1_FIRST`].
    pub const V0_1_LAST: u32 = V0_1_FIRST + 3;

    /// SUCCESS.
    pub const SUCCESS: u64 = 0;
    /// NOT_SUPPORTED.
    pub const NOT_SUPPORTED: u64 = -1i64 as u64;
    /// INVALID_PARAMETERS.
    pub const INVALID_PARAMETERS: u64 = -2i64 as u64;
    /// ALREADY_ON.
    pub const ALREADY_ON: u64 = -4i64 as u64;
    /// INTERNAL_FAILURE.
    pub const INTERNAL_FAILURE: u64 = -6i64 as u64;
    /// AFFINITY_INFO: at least one CPU is on.
    pub const AFFINITY_ON: u64 = 0;
    /// AFFINITY_INFO: all CPUs are off.
    pub const AFFINITY_OFF: u64 = 1;
    /// MIGRATE_INFO_TYPE: there is no trusted OS that would have to be migrated.
    pub const NO_MIGRATION: u64 = 2;
    /// SYSTEM_OFF2: HIBERNATE_OFF, both the type and the answer of PSCI_FEATURES.
    pub const HIBERNATE_OFF: u64 = 1;

    /// A version as PSCI_VERSION tells it.
    pub const fn version(major: u32, minor: u32) -> u32 {
        (major << 16) | minor
    }

    /// 0.1.
    pub const V0_1: u32 = version(0, 1);
    /// 0.2.
    pub const V0_2: u32 = version(0, 2);
    /// 1.0.
    pub const V1_0: u32 = version(1, 0);
    /// 1.1.
    pub const V1_1: u32 = version(1, 1);
    /// 1.2.
    pub const V1_2: u32 = version(1, 2);
    /// 1.3, the newest.
    pub const V1_3: u32 = version(1, 3);

    /// MPIDR_EL1, its four affinity fields.
    pub const AFFINITY: u64 = 0xff_00ff_ffff;

    /// Which CPUs AFFINITY_INFO asks for: those whose MPIDR_EL1 has the second number under the mask of the first. `None` if
    /// the arguments are wrong.
    pub const fn affinity_of(target: u64, lowest_level: u64) -> Option<(u64, u64)> {
        if target & !AFFINITY != 0 || lowest_level > 3 {
            return None;
        }
        let below = lowest_level << 3;
        let mask = AFFINITY & (u64::MAX << (below & 63));
        Some((mask, target & mask))
    }

    /// Whether SYSTEM_RESET2 knows this type of reset: the architected warm reset, or any of the vendor's.
    pub const fn is_reset_type(kind: u64) -> bool {
        const VENDOR: u32 = 1 << 31;
        let kind = kind as u32;
        kind == 0 || kind >= VENDOR
    }

    /// Whether SYSTEM_OFF2 takes these arguments. A type of 0 is what older revisions had for HIBERNATE_OFF.
    pub const fn is_off_type(kind: u64, cookie: u64) -> bool {
        (kind as u32 as u64) <= HIBERNATE_OFF && cookie == 0
    }
}

/// Answer to what is not there.
pub const NOT_SUPPORTED: u64 = -1i64 as u64;
/// SMCCC_ARCH_FEATURES: the CPU is not affected, so nobody need call.
pub const UNAFFECTED: u64 = 1;

/// SMCCC 1.1.
pub const VERSION_1_1: u64 = 0x1_0001;

/// Whether the call is served whatever the bitmaps of firmware features say.
pub const fn is_always_allowed(function: u32) -> bool {
    // Standard services 0x00..0x1f are PSCI.
    const KIND_AND_PSCI: u32 = 0x3f00_ffe0;
    const STANDARD: u32 = 0x0400_0000;
    function == call::VERSION
        || function == call::ARCH_FEATURES
        || function & KIND_AND_PSCI == STANDARD
        || (function >= psci::V0_1_FIRST && function <= psci::V0_1_LAST)
}

/// What is done with a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Action {
    /// It is served.
    Handle = 0,
    /// NOT_SUPPORTED.
    Deny = 1,
    /// KVM_EXIT_HYPERCALL.
    Forward = 2,
}

impl Action {
    /// The action with this number in the uAPI.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Handle),
            1 => Some(Self::Deny),
            2 => Some(Self::Forward),
            _ => None,
        }
    }
}

/// Functions that user space has decided about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Filter {
    /// First function.
    pub first: u32,
    /// Last function.
    pub last: u32,
    /// What is done with them.
    pub action: Action,
}

/// Architectural calls, which user space cannot decide about: they tell which mitigations there are.
const RESERVED: [(u32, u32); 2] = [(0x8000_0000, 0x8000_ffff), (0xc000_0000, 0xc000_ffff)];

impl Filter {
    /// `count` functions from `first` on. `None` if there are none, or they wrap.
    pub fn new(first: u32, count: u32, action: Action) -> Option<Self> {
        let last = first.checked_add(count.checked_sub(1)?)?;
        Some(Self {
            first,
            last,
            action,
        })
    }

    /// Whether it may be added to `others`.
    pub fn is_free(&self, others: &[Self]) -> bool {
        let meets = |first: u32, last: u32| self.first <= last && first <= self.last;
        !RESERVED.iter().any(|(first, last)| meets(*first, *last))
            && !others.iter().any(|other| meets(other.first, other.last))
    }
}

/// What `filters` say about `function`.
pub fn decide(filters: &[Filter], function: u32) -> Action {
    filters
        .iter()
        .find(|filter| (filter.first..=filter.last).contains(&function))
        .map_or(Action::Handle, |filter| filter.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinity_masks_are_by_level() {
        use super::psci::affinity_of;
        assert_eq!(affinity_of(0x0102, 0), Some((0xff_00ff_ffff, 0x0102)));
        assert_eq!(affinity_of(0x0102, 1), Some((0xff_00ff_ff00, 0x0100)));
        assert_eq!(affinity_of(0x0102, 3), Some((0xff_0000_0000, 0)));
        assert_eq!(affinity_of(0x0102, 4), None);
        assert_eq!(affinity_of(1 << 31, 0), None);
    }

    #[test]
    fn reset_and_off_types_are_checked_as_32_bits() {
        assert!(psci::is_reset_type(0));
        assert!(!psci::is_reset_type(1));
        assert!(psci::is_reset_type(0x8000_0000));
        assert!(psci::is_off_type(0, 0));
        assert!(psci::is_off_type(1, 0));
        assert!(!psci::is_off_type(2, 0));
        assert!(!psci::is_off_type(1, 1));
    }

    #[test]
    fn psci_is_allowed_in_both_widths() {
        assert!(is_always_allowed(psci::CPU_ON));
        assert!(is_always_allowed(psci::CPU_ON | psci::SMC64));
        assert!(is_always_allowed(psci::V0_1_CPU_ON));
        assert!(is_always_allowed(call::ARCH_FEATURES));
        assert!(!is_always_allowed(call::TRNG_VERSION));
        assert!(!is_always_allowed(call::VENDOR_UID));
        assert!(!is_always_allowed(call::ARCH_WORKAROUND_1));
    }

    #[test]
    fn filter_of_reserved_or_taken_functions_is_not_free() {
        let deny = |first, count| Filter::new(first, count, Action::Deny).unwrap();
        assert!(!deny(call::ARCH_WORKAROUND_1, 1).is_free(&[]));
        assert!(!deny(0xc000_0000, 1).is_free(&[]));
        assert!(!deny(0x7fff_ffff, 2).is_free(&[]));
        let taken = [deny(psci::CPU_ON, 2)];
        assert!(deny(psci::CPU_ON + 2, 1).is_free(&taken));
        assert!(!deny(psci::CPU_ON + 1, 5).is_free(&taken));
        assert_eq!(decide(&taken, psci::CPU_ON + 1), Action::Deny);
        assert_eq!(decide(&taken, psci::CPU_ON + 2), Action::Handle);
    }

    #[test]
    fn filter_of_nothing_or_beyond_the_end_is_refused() {
        assert_eq!(Filter::new(1, 0, Action::Deny), None);
        assert_eq!(Filter::new(u32::MAX, 2, Action::Deny), None);
        assert_eq!(
            Filter::new(u32::MAX, 1, Action::Deny).map(|filter| filter.last),
            Some(u32::MAX)
        );
    }
}
