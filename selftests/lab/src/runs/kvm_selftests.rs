// SPDX-License-Identifier: GPL-2.0-only

//! The VM runs of the kernel's own KVM selftests.

use super::{
    Duration,
    Run,
    BASE,
    KVM_OFF,
    NO_VHE, //
};

/// The machine on which the kernel's KVM selftests run. What the library takes for a guest of many programs is half a
/// gibibyte.
pub const KVM_SELFTESTS: Run = Run {
    memory_mib: 3072,
    tests: &["kvm_selftests"],
    // Many ask for what is not offered; what they do on the one and the other KVM is compared.
    may_skip: None,
    kvm_selftests: true,
    timeout: Duration::from_secs(5400),
    ..BASE
};

/// What tells the VM to run those of the kernel's KVM selftests that must pass on eltwo.
pub const REQUIRED: &str = "eltwo.kvm_selftests=guest_print_test,arm64/mmio_sign_ext,arm64/psci_test,arm64/hypercalls,\
    arm64/smccc_filter,set_memory_region_test,kvm_create_max_vcpus,arm64/vcpu_width_config,arm64/kvm-uuid,\
    coalesced_io_test,arm64/external_aborts,get-reg-list,kvm_binary_stats_test,kvm_page_table_test,\
    arm64/page_fault_test,arm64/debug-exceptions";

/// One CPU model, with the kernel's own KVM and with eltwo, for all of the kernel's KVM selftests.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The kernel's own KVM, in the mode in which its EL2 code is apart from the kernel, as that of eltwo is.
    pub stock: Run,
    /// Eltwo.
    pub eltwo: Run,
}

/// The machines of `make kvm-selftests`, each called by its CPU model.
pub const PAIRS: [Pair; 2] = [
    Pair {
        stock: Run {
            name: "kvm-selftests-stock",
            words: &["kvm-arm.mode=nvhe"],
            ..KVM_SELFTESTS
        },
        eltwo: Run {
            name: "kvm-selftests-eltwo",
            words: &[KVM_OFF],
            ..KVM_SELFTESTS
        },
    },
    Pair {
        stock: Run {
            name: "kvm-selftests-stock",
            cpu: "max",
            words: &["kvm-arm.mode=nvhe"],
            ..KVM_SELFTESTS
        },
        eltwo: Run {
            name: "kvm-selftests-eltwo",
            cpu: "max",
            words: &[KVM_OFF, NO_VHE],
            ..KVM_SELFTESTS
        },
    },
];
