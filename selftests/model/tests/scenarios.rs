// SPDX-License-Identifier: GPL-2.0-only

//! Every scenario, on the image as it was linked.

mod common;

use eltwo_model::scenario::{
    self,
    Scenario, //
};

fn scenario(name: &str) -> &'static Scenario {
    scenario::ALL
        .iter()
        .find(|scenario| scenario.name == name)
        .unwrap()
}

macro_rules! scenarios {
    ($($test:ident = $name:literal;)*) => {
        $(
            #[test]
            fn $test() {
                if let Err(error) = scenario($name).run(&common::image()) {
                    panic!("{error:#}");
                }
            }
        )*

        #[test]
        fn scenarios_all_have_a_test() {
            let tested = [$($name),*];
            let names: Vec<_> = scenario::ALL.iter().map(|scenario| scenario.name).collect();
            assert_eq!(names, tested);
        }
    };
}

scenarios! {
    init_and_reset_are_clean = "init_hypercall_reset";
    init_after_least_clean_is_clean = "least_clean";
    init_with_icache_on_is_clean = "icache_on";
    reset_by_reset_vectors_is_clean = "reset_vectors";
    reset_by_set_vectors_is_clean = "set_vectors";
    reset_by_soft_restart_is_clean = "soft_restart";
    stub_calls_refused_leave_all_as_it_is = "refused_stub_calls";
    read_reg_from_stub_gives_each_register = "read_reg_from_stub";
    read_reg_from_rust_gives_each_register = "read_reg_from_rust";
    translate_gives_what_the_mmu_does = "translate_of_va";
    fault_at_el2_is_contained = "fault_at_el2";
    fault_in_vectors_is_contained = "fault_in_vectors";
    trap_of_host_becomes_undefined = "trap_of_host";
    cpu_that_comes_again_is_clean = "loaded_twice";
    cpus_in_turn_are_clean = "cpus_in_turn";
    cpus_before_the_loader_are_clean = "cpus_from_the_last";
    cpus_in_step_are_clean = "cpus_in_step";
    address_spaces_of_other_machines_are_clean = "other_address_spaces";
    guest_finds_its_registers_and_host_its_own = "guest_visits";
    guest_optional_registers_are_switched = "guest_extras";
    guest_switch_with_speculative_at_mixes_nothing = "guest_speculative_at";
    guest_switch_reads_par_el1_with_care = "guest_par_barrier";
    guest_teaches_the_host_nothing = "guest_unlearn";
    guest_virtual_serror_is_taken_once = "guest_virtual_serror";
    guest_vcpus_in_turn_find_nothing_of_each_other = "guest_vcpus_in_turn";
    guest_with_relaxed_stage2_may_write = "guest_stage2_relaxed";
    guest_that_may_not_run_changes_nothing = "guest_refused";
    guest_aborts_tell_the_ipa = "guest_aborts";
    guest_serrors_are_waited_for = "guest_serrors";
    guest_serrors_are_deferred = "guest_serrors_with_ras";
    guest_switch_that_faults_gives_the_host_back = "guest_faults";
    guest_switch_contains_each_exception = "guest_vectors";
}
