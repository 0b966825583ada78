// SPDX-License-Identifier: GPL-2.0-only

//! Common: what a CPU needs so that a guest cannot steer the branch predictor of who runs after it (Spectre variant 2 and
//! branch history injection).
//!
//! Source: Arm, "Spectre-BHB" (the numbers of branches by core), SMCCC (DEN 0028) 7; the order of preference is that of
//! `arch/arm64/kernel/proton-pack.c` of Linux.

/// SMCCC_ARCH_WORKAROUND_1: forget what the branch predictor has learned.
pub const WORKAROUND_1: u32 = 0x8000_8000;
/// SMCCC_ARCH_WORKAROUND_3: as 1, and the branch history too.
pub const WORKAROUND_3: u32 = 0x8000_3fff;

/// What the firmware says about one of its functions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// This CPU needs the call.
    Required,
    /// This CPU is safe without.
    NotRequired,
    /// The firmware does not know the function.
    Unknown,
}

/// What a CPU is known by.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// MIDR_EL1.
    pub midr: u64,
    /// ID_AA64PFR0_EL1.CSV2. 1: no variant 2; 3: no branch history injection either.
    pub csv2: u64,
    /// ID_AA64MMFR1_EL1.ECBHB: the history of a lower exception level is of no use at a higher one.
    pub ecbhb: bool,
    /// ID_AA64ISAR2_EL1.CLRBHB: there is an instruction for it.
    pub clrbhb: bool,
    /// The firmware about [`WORKAROUND_1`].
    pub workaround_1: Answer,
    /// The firmware about [`WORKAROUND_3`].
    pub workaround_3: Answer,
}

/// What has to be done when a guest stops. All zero: nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Unlearn {
    /// The SMC with this function number; 0: none.
    pub smc: u32,
    /// That many taken branches, which leave nothing else in the history; 0: none.
    pub branches: u8,
    /// The instruction CLRBHB.
    pub clrbhb: bool,
}

impl Unlearn {
    /// Of one CPU.
    pub fn of(cpu: &Facts) -> Self {
        let mut this = Self::default();
        if cpu.workaround_1 == Answer::Required {
            this.smc = WORKAROUND_1;
        }
        // Who can steer branches by variant 2 has no need of their history.
        let open = cpu.csv2 == 0 && cpu.workaround_1 == Answer::Unknown;
        if cpu.csv2 >= 3 || cpu.ecbhb {
            return this;
        }
        let branches = branches_of(cpu.midr);
        if cpu.clrbhb {
            this.clrbhb = true;
        } else if cpu.workaround_3 == Answer::Required && (branches == 0 || this.smc != 0) {
            // It does what the first one does.
            this.smc = WORKAROUND_3;
        } else if !open {
            this.branches = branches;
        }
        this
    }

    /// What does for both. A CPU that does not need it loses some time only.
    pub fn join(self, other: Self) -> Self {
        let smc = match (self.smc, other.smc) {
            (WORKAROUND_3, _) | (_, WORKAROUND_3) => WORKAROUND_3,
            (0, smc) | (smc, _) => smc,
        };
        Self {
            smc,
            branches: self.branches.max(other.branches),
            clrbhb: self.clrbhb || other.clrbhb,
        }
    }

    /// Whether there is anything to do.
    pub fn is_needed(self) -> bool {
        self != Self::default()
    }

    /// One word for the switch: the function in the low half, the number of branches above it, CLRBHB in bit 40. The switch
    /// executes CLRBHB in any case: it is a NOP where it does not exist.
    pub fn to_word(self) -> u64 {
        u64::from(self.smc) | (u64::from(self.branches) << 32) | (u64::from(self.clrbhb) << 40)
    }

    /// Undoes [`Self::to_word`].
    pub fn from_word(word: u64) -> Self {
        Self {
            smc: word as u32,
            branches: (word >> 32) as u8,
            clrbhb: word & (1 << 40) != 0,
        }
    }
}

/// MIDR_EL1 without variant and revision.
const MODEL: u64 = 0xff0f_fff0;

const fn model(implementer: u64, part: u64) -> u64 {
    (implementer << 24) | (0xf << 16) | (part << 4)
}

const ARM: u64 = 0x41;
const HISILICON: u64 = 0x48;
const QUALCOMM: u64 = 0x51;
const AMPERE: u64 = 0xc0;

/// How many branches clear the history of the cores that have no better way.
const BRANCHES: [(u64, u8); 26] = [
    (model(ARM, 0xd4e), 132),      // Cortex-X3
    (model(ARM, 0xd4f), 132),      // Neoverse V2
    (model(ARM, 0xd4d), 38),       // Cortex-A715
    (model(ARM, 0xd81), 38),       // Cortex-A720
    (model(ARM, 0xd89), 38),       // Cortex-A720AE
    (model(ARM, 0xd41), 32),       // Cortex-A78
    (model(ARM, 0xd42), 32),       // Cortex-A78AE
    (model(ARM, 0xd4b), 32),       // Cortex-A78C
    (model(ARM, 0xd44), 32),       // Cortex-X1
    (model(ARM, 0xd4c), 32),       // Cortex-X1C
    (model(ARM, 0xd47), 32),       // Cortex-A710
    (model(ARM, 0xd48), 32),       // Cortex-X2
    (model(ARM, 0xd49), 32),       // Neoverse N2
    (model(ARM, 0xd40), 32),       // Neoverse V1
    (model(HISILICON, 0xd01), 32), // TSV110
    (model(ARM, 0xd0b), 24),       // Cortex-A76
    (model(ARM, 0xd0e), 24),       // Cortex-A76AE
    (model(ARM, 0xd0d), 24),       // Cortex-A77
    (model(ARM, 0xd0c), 24),       // Neoverse N1
    (model(QUALCOMM, 0x804), 24),  // Kryo 4xx Gold
    (model(HISILICON, 0xd02), 24), // HIP09
    (model(AMPERE, 0xac3), 11),    // AmpereOne
    (model(ARM, 0xd08), 8),        // Cortex-A72
    (model(ARM, 0xd07), 8),        // Cortex-A57
    (model(ARM, 0xd09), 0),        // Cortex-A73: its firmware
    (model(ARM, 0xd0a), 0),        // Cortex-A75: its firmware
];

fn branches_of(midr: u64) -> u8 {
    BRANCHES
        .iter()
        .find(|(model, _)| *model == midr & MODEL)
        .map_or(0, |(_, branches)| *branches)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A53: u64 = 0x410f_d034;
    const A72: u64 = 0x410f_d083;
    const A75: u64 = 0x412f_d0a1;
    const A76: u64 = 0x414f_d0b1;

    /// A core of before any of this, with firmware that knows nothing.
    fn cpu(midr: u64, csv2: u64) -> Facts {
        Facts {
            midr,
            csv2,
            ecbhb: false,
            clrbhb: false,
            workaround_1: Answer::Unknown,
            workaround_3: Answer::Unknown,
        }
    }

    fn branches(branches: u8) -> Unlearn {
        Unlearn {
            branches,
            ..Unlearn::default()
        }
    }

    fn smc(smc: u32) -> Unlearn {
        Unlearn {
            smc,
            ..Unlearn::default()
        }
    }

    #[test]
    fn core_without_a_better_way_gets_its_loop() {
        assert_eq!(Unlearn::of(&cpu(A76, 1)), branches(24));
        // Any revision.
        assert_eq!(Unlearn::of(&cpu(A76 & !0xf0_000f, 1)), branches(24));
        assert_eq!(Unlearn::of(&cpu(A53, 0)), Unlearn::default());
    }

    #[test]
    fn core_that_says_it_is_safe_gets_nothing() {
        assert!(!Unlearn::of(&cpu(A76, 3)).is_needed());
        let ecbhb = Facts {
            ecbhb: true,
            ..cpu(A76, 1)
        };
        assert!(!Unlearn::of(&ecbhb).is_needed());
    }

    #[test]
    fn instruction_comes_before_loop_and_firmware() {
        let facts = Facts {
            clrbhb: true,
            workaround_3: Answer::Required,
            ..cpu(A76, 1)
        };
        let unlearn = Unlearn::of(&facts);
        assert!(unlearn.clrbhb && unlearn.is_needed());
        assert_eq!((unlearn.smc, unlearn.branches), (0, 0));
        assert_eq!(unlearn.to_word(), 1 << 40);
    }

    #[test]
    fn firmware_does_what_it_asks_for() {
        let first = Facts {
            workaround_1: Answer::Required,
            ..cpu(A72, 0)
        };
        // Variant 2 is closed by the call, so the history matters.
        let unlearn = Unlearn::of(&first);
        assert_eq!((unlearn.smc, unlearn.branches), (WORKAROUND_1, 8));
        let both = Facts {
            workaround_3: Answer::Required,
            ..first
        };
        assert_eq!(Unlearn::of(&both), smc(WORKAROUND_3));
        let third = Facts {
            workaround_3: Answer::Required,
            ..cpu(A75, 1)
        };
        assert_eq!(Unlearn::of(&third), smc(WORKAROUND_3));
        // The loop is cheaper than the call, where it is enough.
        let loops = Facts {
            workaround_3: Answer::Required,
            ..cpu(A76, 1)
        };
        assert_eq!(Unlearn::of(&loops), branches(24));
    }

    #[test]
    fn history_alone_is_not_cleared_where_variant_2_is_open() {
        assert_eq!(Unlearn::of(&cpu(A72, 0)), Unlearn::default());
        let closed = Facts {
            workaround_1: Answer::NotRequired,
            ..cpu(A72, 0)
        };
        assert_eq!(Unlearn::of(&closed), branches(8));
    }

    #[test]
    fn different_cores_get_what_does_for_all() {
        let mixed = smc(WORKAROUND_1).join(branches(24)).join(branches(8));
        assert_eq!((mixed.smc, mixed.branches), (WORKAROUND_1, 24));
        assert_eq!(mixed.to_word(), (24 << 32) | u64::from(WORKAROUND_1));
        assert_eq!(Unlearn::from_word(mixed.to_word()), mixed);
        assert_eq!(mixed.join(smc(WORKAROUND_3)).smc, WORKAROUND_3);
        assert_eq!(smc(WORKAROUND_3).join(mixed).smc, WORKAROUND_3);
    }

    #[test]
    fn every_core_is_listed_once() {
        for (place, (model, _)) in BRANCHES.iter().enumerate() {
            assert!(BRANCHES[..place].iter().all(|(other, _)| other != model));
            assert_eq!(model & !MODEL, 0);
        }
    }
}
