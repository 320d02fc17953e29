"""Which tests stay on one worker, and which ones `launch.py test --fast` leaves out."""

# Made once for a file and dear: all tests of the file that use one run on the same worker.
TOGETHER = {"loaded", "bench", "poor", "events", "benched", "chooser", "stressed", "motley", "experts"}

# Whoever uses one of these waits for an analysis, an export or the emulated GPU.
WHOLE_FIXTURES = {
    "sample_ir",
    "export_sample",
    "emulated_gpu",
    "poor",
    "stressed",
    "motley",
    "experts",
    "chooser",
    "events",
    "benched",
}

# Tests of every family are quick for these two, which stand for the others: one with a scan, one without.
QUICK_FAMILIES = {"mamba", "lfm2"}

# Other tests of more than about a second, by name.
WHOLE = {
    "test_experts_race_and_agree_like_other_weights",
    "test_scores_measured_otherwise_are_not_continued",
    "test_bfloat16_differs_by_no_more_than_it_says",
    "test_large_vocabularies_are_compared_in_slices",
    "test_more_formats_extend_the_file",
    "test_five_random_entries_against_plain_torch",
    "test_more_text_extends_the_file_without_repeating",
    "test_standard_errors_are_of_window_means",
    "test_windows_in_an_order_not_drawn_from_the_seed_are_not_gone_on_with",
    "test_weights_that_a_gpu_computes_wrongly_are_said",
    "test_every_entry_of_other_families_against_plain_torch",
    "test_a_pair_is_called_wrongly_no_oftener_than_stated",
    "test_every_chart_names_every_good_row_once_and_no_name_covers_another",
    "test_a_trial_that_fails_says_so_and_nothing_waits_for_it",
    "test_columns_are_chosen_and_the_choice_is_kept",
    "test_the_number_of_lanes_changes_no_figure",
    "test_an_accepted_name_is_a_plain_file_on_every_system",
    "test_set_up_once_then_skipped_and_repaired_when_cut_short",
    "test_packages_that_cannot_be_had_are_said_in_words",
    "test_far_positions_are_exact_in_fp16",
    "test_a_prompt_passes_the_head_with_its_last_token_only",
    "test_the_bytes_of_ten_random_plans_are_those_of_their_files",
    "test_run_on_half_the_sample",
    "test_run_on_another_architecture",
    "test_failures_are_one_sentence",
    "test_step_by_step",
    "test_baselines_are_plans_like_any_other",
    "test_a_plan_of_another_revision_is_exported_only_by_consent",
    "test_compress_takes_the_sample_to_measured_models_and_fills_every_page",
    "test_export_and_benchmark_run_from_their_buttons_and_a_prompt_is_tried",
    "test_cancel_answers_within_a_second_and_the_next_start_goes_on",
    "test_an_analysis_fills_the_heatmap_and_never_blocks_the_window",
    "test_pause_holds_the_measuring_and_resume_lets_it_go_on",
    "test_esc_asks_before_it_stops_and_keeping_on_is_the_default",
    "test_closing_in_mid_job_leaves_nothing",
    "test_closing_while_a_model_is_being_written_leaves_no_half_folder",
    "test_killed_at_random_moments_the_file_is_the_same_to_the_last_bit",
    "test_a_device_of_fixed_shapes_is_measured_by_its_own_graphs",
    "test_combinations_of_devices_stand_side_by_side",
    "test_a_device_of_fixed_shapes_takes_a_long_window_in_step_with_its_reference",
    "test_a_prompt_too_long_for_a_device_costs_its_own_figure_only",
    "test_a_recurrence_that_freezes_in_the_trace_ends_the_export",
    "test_llm_pipeline_for_an_npu",
    "test_llm_pipeline_takes_prompts_of_unequal_length",
    "test_compressed_logits_are_those_of_rounded_weights",
    "test_graphs_of_fixed_shapes",
    "test_logits_for_any_feeding",
    "test_padding_is_as_if_it_were_not_there",
    "test_a_call_with_more_tokens_than_any_before_is_right",
    "test_the_same_plan_gives_the_same_bytes_twice",
    "test_both_graphs_share_the_weights",
    "test_racing_keeps_the_ranking_and_says_which_stopped",
    "test_the_first_window_comes_within_a_second_and_a_half_and_needs_no_torch",
}
