<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE TS>
<TS version="2.1">
<context>
    <name></name>
    <message>
        <source>decode, tokens/s</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>weights, MB</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>peak RSS of the process, MiB</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>perplexity</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL to FP16, nats per token</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>same top token as FP16, %</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>time to first token, ms</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>prefill, tokens/s</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Speed against quality</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Memory against quality</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Speed against size</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Speed against memory</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Speed by prompt length</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Colours are variants; shapes are devices. For speed, bars show the standard deviation of one generation; for quality, the standard error over windows of text. All variants read the same text, so differences in quality are more certain than the bars suggest. Rows with wrong answers are left out.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Chart of the benchmark</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>prompt, tokens</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Nothing measured yet</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{name}, {length:,} tokens
{said}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Export a model first</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Both sides answer with the most likely token at each step. A model with a chat template gets your messages in it; any other just continues the text. The tint marks tokens that only one answer has.
When both answer at once, each is slower than alone. Clear the box to have them answer in turn, or use Benchmark to time them.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>By its chat template</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>No template, continues text</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>First variant</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Second variant</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Maximum number of new tokens</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source> tokens</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>An answer has at most this many tokens</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Both at once</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Both sides answer at the same time. Cleared, they answer in turn.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Send</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Ask both sides (Enter)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Stop</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>End the answers where they are</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>New chat</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Forget what was said, and unload both models</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Enter a message first</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>in turn, since memory does not hold both</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>both at once</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{name}: device</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{name}: chat</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The answers appear here</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>on</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>loading …</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>reading the message …</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>answering …</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>too short to time</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>first after {ttft_ms} ms</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>stopped</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Stopped.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{count:,} only here</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>the same answer</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The captain looked at the sea and</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Message</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Enter sends, Shift+Enter begins a new line, Up recalls earlier messages</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Decoding speed relative to …</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This variant&apos;s tokens/s divided by the other&apos;s, on the same device. The 95 % interval comes from alternating rounds and allows for repeated looks at the data. ≈ means within noise; differences below 4 % always count as noise.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>All figures</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>What went wrong</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>on mains</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>on battery</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>power source unknown</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{tokens:,} tokens of {name} in windows of {window:,}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>, {apart:,} apart</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{memory_read_gb_s} GB/s read from memory</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Variant</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Device</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Figure</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This one</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The other</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Other ÷ this (95 %)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The other is</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>≈ within noise</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Speeds are compared by Welch&apos;s t interval over rounds; differences below 4 % count as noise. Quality is compared by its standard errors if both files used the same text. Size and memory get no verdict.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Two benchmarks side by side</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Figures of both</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Environment</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Figures, or the environment</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>this one</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>the other</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Figures</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Environment ({count})</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This one: {first}
The other: {second}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Save…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Save this comparison as a page (HTML) or a table (CSV)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>What changed between them</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Close</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Saved the comparison as {path}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pages (*.html)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Tables (*.csv)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Save the comparison</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{count} {tr} in both</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>row is</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>rows are</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>: {apart} of their figures differ by more than noise, {alike} do not.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Only in {words}: {listed}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Speed</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>By prompt length</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Loading</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Quality</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Memory</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>How it ran</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>≈ marks values not shown to differ from the best by more than 4 % (95 % confidence). Variants that took turns are shown in the proportions of their common rounds.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Tokens/s</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Decoding speed in openvino_genai after the standard prompt: mean of single generations ± their standard deviation. {paired}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>First token, ms</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>From the prompt&apos;s token ids to the first new token, ± standard deviation of one generation.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Prefill/s</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>How fast the prompt is read: its tokens divided by the time to the first new token, ± standard deviation.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Plain requests/s</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The same prompt and tokens with plain inference requests, without openvino_genai. A cross-check.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Weights read</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Bytes of weights read for each token × tokens/s, in 10⁹ bytes per second, and as a share of the memory bandwidth measured with all cores. Only cached data can exceed 100 %.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Rounds</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Rounds in which this variant was timed next to the others. They continue until it clearly differs from each of them, or until their ratio is known to 5 %.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Load, ms</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Time to read and compile the model.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>From cache, ms</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The same with OpenVINO&apos;s model cache filled, as on the second start of a program that uses it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cache</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Size of OpenVINO&apos;s model cache on disk. Empty if the device makes none.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Perplexity</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Perplexity of the exported model on held-out text, on this device, ± standard error over windows of text. All variants read the same text, so differences are more certain than the errors suggest.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Word perplexity</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Perplexity for each word of the original text, as lm-eval&apos;s task wikitext defines it. Only for WikiText.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL to FP16</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>How far the predictions on this device are from those of FP16 on the CPU in float32, ± standard error. For FP16 itself, this is the rounding of the device&apos;s arithmetic.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL reverse</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The other direction. It penalizes probability where FP16 has none.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>ΔCE</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Additional nats per token compared with FP16 on the same tokens. Noise can make it negative.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Top-1 as FP16, %</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Share of positions where the most likely next token is the same as with FP16, ± standard error.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Off CPU f32, %</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>How far this device&apos;s logits are from those of the same variant on the CPU in float32. Above 15 % (25 % in bf16, or if the device does not report its precision), the answers are wrong and the device&apos;s other figures do not count.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Peak RSS, MiB</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Largest resident set of the process, as the operating system counts it. It includes memory-mapped weights. For a GPU too, this is host memory.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Sampled RSS, MiB</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The same, sampled 20 times per second. Short peaks may be missed.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>System change, MiB</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Change in memory use of the whole computer during the speed run. It includes a GPU&apos;s buffers, but also changes in other programs.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Device memory, MiB</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Memory that OpenVINO allocated on a GPU or NPU: the largest value after any turn of the speed run, in total and by kind. An integrated device shares the computer&apos;s memory, so do not add this to the other figures.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Precision</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The device&apos;s precision in the speed run.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Quality in</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The device&apos;s precision when perplexity and KL were measured.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KV cache</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Attention</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>SDPA, paged (PA) or static.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Threads</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cores</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>As set in OpenVINO.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Hint</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Ran on</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Power</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>When the row was finished.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>/s at {n}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Decode after {n} tokens, tokens/s</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>First at {n}, ms</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>First token after {n} tokens, ms</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Prefill at {n}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Prefill of {n} tokens, tokens/s</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>From two rounds, ± standard deviation of one generation.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{value}, too few</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>no such device</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>not available: {why}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Plan</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>8,888 MiB, peak 8,888</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>88.88 of 88.8 GB</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Resident memory of the child process over the run</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Memory in use on the whole computer over the run</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Computer</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{rss_mb:,.0f} MiB, peak {peak_mb:,.0f}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{used:.2f} of {total:.1f} GB</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Last run, peak: {titled}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>peak {peaks:,.0f} MiB</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{titled}: {peak:,.0f} MiB</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Resident memory (RSS) of the working child process, including memory-mapped weights.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Sampled peaks of this run:</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Memory in use by all programs. The full height is all the memory of the computer.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Memory, {whose}: process {process}, computer {computer}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measuring now. Variants take turns, so the figures of all appear near the end.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Not measured yet. “Benchmark” times each model on the selected devices and checks its answers.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Bold: the best. ≈: not shown to differ from the best. KL leaves out FP16, its reference.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>How fast, how good</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Export models</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Benchmark</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measure speed, quality and memory of every exported model (F5)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Find devices</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Find the devices that OpenVINO can use, and test each one</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compare with</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Nothing to measure yet</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Time and check exported models here, side by side on each device, with error bars.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Settings…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>What is measured, and for how long</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Save as</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Bench file (JSON)…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Table (CSV)…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Page (HTML)…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Bundle to share…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Saved the benchmark as {path}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Effort</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Thorough: rounds continue until the speeds clearly differ or time is up.
Quick look: two rounds of short generations on less text. Faster, with wider errors.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Columns</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Choose which figures the table shows</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The result, charts, all figures, or a chat</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Result</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Charts</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Chat</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Chart</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measure</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Choose a model</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>On {device}: {sentence}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compare with an earlier benchmark, or with a bench file from another computer</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Save the figures as a file</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>not available: {reason}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>as set under “Settings”</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Devices: not searched yet</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The usual columns</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Choose at least one device</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Another file…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compare with another bench file</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Bench files (*.json);;All files (*)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Save the benchmark</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Picture</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This card as a picture, to copy or to save</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Copy picture</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Save as PNG…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open folder</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The exported model, as other programs load it</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Ask the original and the plan the same, side by side</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Program</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Lines to use the exported model with</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Copy</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Benchmark the plan to see here what compression came to.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The share of next words that stay the same as in FP16, measured on this device. On the Plan page, Verify measures the weights alone, in FP32 and on more text: the two may differ a little.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Copy these lines</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Use it with</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>instead of {full_bytes}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>size of the weights</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>as fast, within noise</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>as fast, not certain</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>same next word</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compressed with KL Lens, on {device}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Copied the picture.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Saved the picture as {path}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Save the picture</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Copied the lines.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>What the benchmark measures</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Longest time for timing on each device, in minutes</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Prompts of {length:,} tokens</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>With and without OpenVINO&apos;s model cache</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Plain requests and memory bandwidth</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Text</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Tokens of text</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Precision of the quality run</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>AUTO:GPU,CPU HETERO:GPU,CPU</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Combinations of devices</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cancel</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>At the device&apos;s own precision</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>In full precision (f32)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Use these</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Usual settings</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A quick look measures two rounds of short generations and 2,048 tokens of text. It ignores the settings that are greyed out; choose Thorough to use them.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{wrong} is not a combination of devices. Write combinations like AUTO:GPU,CPU, and put spaces between them.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Time</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>minutes at most for each device</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Variants take turns until their speeds clearly differ or are known to be equal, but no longer than this.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Prompts</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>All variants are compared after a prompt of 256 tokens. These lengths are timed too.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>How long a model takes to load.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cross-check</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Checks the figures without openvino_genai.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Text that was not used for scores or plans. WikiText is recognized and read as lm-eval reads it, including perplexity by words.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Combinations</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Combinations of devices, each measured like a device. AUTO chooses a device; HETERO splits a model across devices.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Bundled text (Nostromo)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>WikiText-2, test part</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Another text…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The bundled text, which is never used for sensitivity</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Text to measure quality on</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Text (*.txt *.raw *.md);;All files (*)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Size</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>paired round</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>within noise</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>slower</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>faster</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>not certain</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{ratio:.2f}× {variant_title} ({between}) after {rounds}: {said}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>, best</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{variant} on {device}, {heading}: {text}{best}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Figures by variant and device</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Variants</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Write</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>What it is</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Predicted size</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>On disk</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Checked</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Write OpenVINO models</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>No model open</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Write the plan here, and uniform formats for comparison, as folders that OpenVINO GenAI can open.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Export</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Write the chosen models and check every weight (F5)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Benchmark →</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Upload to the Hub…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>See what would be uploaded first</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The plan</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>no plan yet</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>full precision</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>one format for all</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Models to write</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Folder to write into</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Choose…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Choose another folder</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Into</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Add a graph for an NPU, with the same weights</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>An NPU accepts only graphs with fixed shapes. They are made from a second graph, which adds a few MB and doubles the time of the export. Selected automatically if an NPU is found.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>For servers: continuous batching and a prefix cache</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The graph then runs on OpenVINO&apos;s paged backend, as OpenVINO Model Server uses it by default. Prompts are read more slowly than without.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Faster on the CPU, less exact: coarser rounding of activations</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>On the CPU, OpenVINO rounds what the weights are multiplied with to 8 bits, in groups of 32. Groups of 64 or 128, as the formats allow, take up to 15 % less time on processors with AVX-VNNI, such as Lunar Lake&apos;s. Plans that are rounded by data lose little by it; uniform formats can lose more, where a few channels are large. See the benchmark. A GPU takes the option, too; its speed was not measured there.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Each model becomes a folder with its graph, weights, tokenizer and plan. The folder appears after every weight matches the plan and the graph answers a prompt like the original model. Then each GPU and NPU answers the same prompt.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{count}, together about {size}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Nothing chosen.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Export at least one model first</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>, from an earlier plan</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source> as planned</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>, {unplanned:,} not planned and FP16</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>✓ {checked:,} weights{verdict}{answers}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>not yet</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Choose at least one model to write</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Write the models into</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Before compression, in f32 on the CPU</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>As exported, in f32 on the CPU</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{what}: its logits are {off:.0e} of their spread from torch&apos;s.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Upload to the Hugging Face Hub</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Model to upload</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Repository on the Hub</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Everybody can see it</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A new repository is private unless you tick this</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Replace files that KL Lens did not write</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>What will be uploaded</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Upload</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>to</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Reading the folder …</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{bytes} in {count}:</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The benchmark measured an earlier export. For figures in the card, run it again.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Enter a repository, such as your-name/model</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>everybody can see it</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>private</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{repository} exists ({who}).</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The upload replaces {files}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Everybody can see this repository. Tick “Everybody can see it” if you want that</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The repository holds files of something else. Choose another, or let them be replaced</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Explanation</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pictures (*.png)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Drawings (*.svg)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Figures (*.csv)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Copy or save: {chart}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Copied the figures.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Saved {path}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Copy figures</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Save as PNG, SVG or CSV…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Save the chart</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Share the results</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Bundles (*{SUFFIX})</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Share…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Save the plan, scores and benchmark as one file to send, without weights and paths.
Or drag this button to a folder, a mail or a chat.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The file to share is {path}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>As the system</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Light</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Dark</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>About this model</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Welcome</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Models, smaller and faster</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL Lens measures how much each weight of a hybrid language model matters, and stores those that matter little in fewer bits. Then it shows what that brings and what it costs.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Everything stays here</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Nothing leaves this computer unless you search the Hugging Face Hub, download from it, or upload a model yourself. There is no telemetry.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Where things are</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Downloads go to the cache that all Hugging Face programs share, results to the work folder:</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>To begin, choose a model on the left. The sample takes a few minutes and needs no network.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Questions and answers</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Architecture</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Blocks</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Weights</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{parameters} in {count:,} matrices</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Vocabulary</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{count:,} tokens</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Revision</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>local folder</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Folder</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Does it fit this computer?</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>not stated</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Downloads</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{downloads:,} in the last 30 days</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Access</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>on request (gated)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>open</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Without FP16, a benchmark still compares the others.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Licence</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Made from</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Languages</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Updated</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>To fetch</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Tokenizer</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>of {tokenizer_of}: the model has none, its authors use this</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Files</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Stage</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Peak RAM</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Disk</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>✓ fits</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This computer has {ram} of memory and {disk} of free disk space.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Download and open</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Download this model&apos;s files, verify them, and open it</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compress later</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Download this model and compress it when nothing else runs</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measure sensitivity →</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open a model folder</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Search the Hugging Face Hub, for example granite-4.0-h or ibm-granite/</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Search the Hugging Face Hub</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Search</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Try the sample</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A small trained hybrid, included. Needs no network and takes a few minutes.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open a folder…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A model with config.json and safetensors files. Ctrl+O</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Search the Hub</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Granite 4 H, Falcon H1, Zamba2, Bamba, LFM2, Mamba-2 and other hybrids.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Opened before</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Recently opened models</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Reading the list of files …</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Choose a model from the list first</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Reading {opening} …</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Choose a model first</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Sample model (bundled)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Any size</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Up to 1 B</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Up to 3 B</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Up to 8 B</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Any licence</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Apache 2.0</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Supported here</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Any architecture</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Number of weights</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open access</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Leave out models whose authors must be asked for access (gated)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Model</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Usable here?</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Models found on the Hub</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Back to the start</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Asking the Hub …</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Small hybrids to begin with</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source> with safetensors, most downloaded first</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>No model matches. Try other words or fewer filters</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>; {hidden:,} that cannot be used here {are} left out</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>is</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>are</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>✓ yes</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Benchmarking the full-precision model takes {needed} of memory. This computer has {total}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>✗ too large</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Guide</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Questions</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Troubleshooting</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Supported models</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Method</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Results</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>What is new</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Reports for OpenVINO</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Help</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Help pages</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Back</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Back to the page before (Alt+Left)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Forward</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Forward (Alt+Right)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Help text</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Name</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>On this computer</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Models and work folders</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open this model</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open this work folder</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Delete…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Verify files</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compare every file with its hash; download damaged ones again</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Move to the shared cache</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Move it to where all Hugging Face tools look</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Keep</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Delete permanently</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Look again</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{count}, {total} in all.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Nothing yet. Models that you download and the results of your work appear here.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Select a row first</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Delete the selected folder</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Delete {name} ({bytes}) from this computer? </source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Other Hugging Face tools use the same copy. </source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This cannot be undone.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cannot list {folder}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Check the folder, or choose another in Settings</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>unfinished download</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>in an older folder</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>in the shared cache</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>model, revision {revision}, {where}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>exported model</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cannot delete {folder}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Close the programs that use it, and try again</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Everything</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Warnings and errors</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Errors</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>warning</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>error</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>What happened</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Which lines</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Filter</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Filter the log</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Log</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Nothing yet. Jobs, warnings and errors of this session appear here.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Copy diagnostics</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Copy the log and all versions for a bug report, without any token</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Copy the lines shown</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open log folder</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Settings</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Look</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>hf_…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>New Hub token</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Save</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Store the token in the system&apos;s keyring</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Next in {seconds} s</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>On hold: {count}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Next: {count}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Waiting to be compressed:
{names}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Models waiting to be compressed: {words}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compressed next</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Move to the front</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Remove</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Start now</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Hold</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Remove all</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Remove the token from the system&apos;s keyring</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Hub address</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Work folder</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Keep the computer awake while a long job works</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Tell me when a job of more than a minute ends while I look elsewhere</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Restore defaults</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Give every setting its usual value</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Theme</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Hugging Face Hub</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>You need a token only for gated or private models. It is stored in the system&apos;s keyring, never in a file, and is not shown again.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Token</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Address</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Work</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Scores, plans, exported models and benchmarks, one folder for each model.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Long jobs</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The screen may go dark, and the computer still sleeps when its lid is closed.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Settings file</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The look, the Hub address, the work folder, what analyses and benchmarks measure, and the table&apos;s columns. The token and your results are not in it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>About</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL Lens Desktop</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{version}, Apache-2.0 licence</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Runs on</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>With</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>hf auth login</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>From the next start of KL Lens on</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The token in the environment variable HF_TOKEN is used.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The token of `hf auth login` is used.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A token is stored.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>No token is stored. Public models do not need one.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{address} is not an address. Enter one like https://huggingface.co, or leave the field empty.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Keep work in</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Give every setting its usual value? Your settings file is kept as settings-before.json.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Every setting has its usual value again.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Store results in another folder from now on</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL full‖quantized</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>For each size, the predictions closest to the original&apos;s (lowest KL)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>For each size, the least noise in the logits relative to the signal</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Logit error (MSE)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>For each size, the lowest mean squared error of the logits</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cross-entropy (ΔCE)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>For each size, the least added cross-entropy on the calibration text</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The paper&apos;s greedy</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>One list of all reductions by KL(quantized‖full), applied from the least harmful on</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Size of all weights</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Average bits</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Predicted KL, nats per token</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>How formats are chosen</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Prices</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measure on this computer what every format costs in speed and memory. It takes about a minute and is remembered. Then a budget can be a speed.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Budget as a number</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Type a budget and press Enter</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Unit of the budget</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The budget is the size of the exported weights, including scales and everything that stays FP16, but not the tokenizer. The predicted KL is the sum of the KLs of the single weights.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Predicted on {device}: {speed}, {memory} of memory</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{bytes}, {bits:.2f} bits on average</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The pinned weights exceed the budget by {max}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{text!r} is not a budget. Enter a number of 0 or more.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Budget</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Two plans side by side</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The other plan</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Formats by block and part</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Each cell shows bits and group size: this plan above, the other below. a is asymmetric; n is NF4.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compare this plan with</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Average bits by kind of weight</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This plan</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Formats of two plans by block and part</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{weight}: {first} and {second}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>bits</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>nats of KL</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>% perplexity</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>MB of memory</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL {plus_minus} nats per token on held-out text</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL {plus_minus} nats per token predicted, not yet verified</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{fine:,} of {count:,} weights stay INT8 or FP16; {bytes}, {share} of FP16; {loss}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>uniform {format}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>NNCF ({method})</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>chance</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{words} The best baseline of about that size is {method_name}: KL {plus_minus}, {bytes}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The smallest plan takes {size} ({bits:.2f} bits), so that is the budget now.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>FP16 for all weights takes {size} ({bits:.2f} bits), so that is the budget now.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>the paper&apos;s {method}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>the paper&apos;s greedy with γ</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>the paper&apos;s list</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Formats by component and block</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{weight}: not measured, stays FP16</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>, pinned</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source> (the worst of {more} experts)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Colours of the formats: {words}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>not measured</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Limits</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Forbid formats, or let weights share one</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>One format for q, k, v; one for gate, up</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A device can then compute each group as one product</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>For {device}: no {words}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>OpenVINO&apos;s {device} plugin computes them wrongly</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{upper}{words}: at least</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>No minimum</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Limits ({count})</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL predicted</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The sum of the KLs of the single weights, in nats per token</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL measured</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>How far this plan&apos;s predictions are from the original&apos;s, in nats per token. 0 is identical; 0.01 is hard to notice.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL on other text</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Top-1 agreement</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Share of tokens whose most likely next token stays the same</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Roughly, how many words the model hesitates between at each step. Lower is better.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>… in full precision</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Perplexity of the original model on the same text</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Explanation of the rounding</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>On held-out text</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>not measured yet</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{tokens:,} tokens of {name}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>On {name}: KL {here}. Rounded to nearest, the same formats have {there}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Verify measures the whole plan on text that was not used for scoring.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{count} weights are rounded by data.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>On {name}: is the rounding as good on another kind of text?</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>, each making up for the errors of those before it</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Rounding: the integers of {count} weights were chosen to keep what they compute on {text}{how}. Size and speed are those of rounding to nearest.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Which format for which weight</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measure sensitivity</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>No scores yet</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A plan balances size against quality for each weight. Measure sensitivity first; then the plan follows the slider.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Verify</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measure the whole plan on text that was not used for scoring (F5)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Repair</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Improve the plan at the same size: exchange formats while that lowers the joint KL on a third text, round the weights again in sequence, then verify. If you cancel, the improvements so far are kept.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>More</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measure baselines</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measure other plans of about this size on the same held-out text: uniform formats, NNCF&apos;s mixed precision and its own rounding, other metrics, the paper&apos;s plans and random choice</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compare with…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compare this plan with another, by block and kind</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Save…	Ctrl+S</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Save this plan as a JSON file</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Save the plan, scores and benchmark as one file to send, without weights and paths</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Export →</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>format of {count}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>removal of all pins</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>limits</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>budget</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open a plan</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Plans (*.json);;All files (*)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>There is no plan to save. Measure sensitivity first.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Save the plan</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Plans (*.json)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Saved the plan as {path}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Size against quality</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Click the line or drag along it to choose a size; the table, the map and the verdict follow. The arrow keys go from point to point.
The line is the lowest predicted KL for each size. The filled point is the prediction for this plan; a ring with an error bar is measured on held-out text (Verify), and a diamond is the same plan rounded to nearest. Coloured squares are predictions for uniform formats. “Measure baselines” under More adds the others. Point at a symbol to see its name.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Symbols of the baselines</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The prices were measured on another model than the scores.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{error} You can export the plan, but it has no prediction here.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>another plan</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{error} The plan is shown without its limits.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open a plan file for this model</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measure sensitivity first</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This plan is already verified</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A uniform plan has no formats to exchange. Choose another method.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Verify this plan first, for comparison</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A plan for another revision</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{name} was made for different weights with the same names and shapes: {differs}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Its figures do not apply here and are removed. Apply its formats to this model anyway?</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Apply</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Leave it</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL (automatic)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>the paper&apos;s</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>other metrics</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Size against KL</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>size, MB</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL, nats per token</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>plan, predicted</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>plan, measured</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>↓ hard to notice</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{size}, KL {plus_minus}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Weight</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Kind</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Shape</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Format</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Own KL, nats</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The matrix&apos;s name in the model</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The part of a block that it belongs to. SSM layers have a state of fixed size; attention grows with the text.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Rows × columns</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>How its numbers are stored, for example in 16, 8 or 4 bits. Double-click to choose another format.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>How far the model&apos;s predictions move if only this weight has this format, in nats per token. 0 is not at all; 0.01 is hard to notice.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>In the exported file, scales included</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>
Pinned to {label} by hand</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{memory} of memory</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>On {device}, for each token:</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Weights and their formats</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Format of this weight</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Automatic</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Practically identical</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Hard to notice</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Noticeable at times</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Clearly different</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Badly damaged</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measured</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Predicted</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>about </source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>, {about}{unchanged} of next words unchanged</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{source}: KL {kl} nats per token{share}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{words}: KL up to {kl:g}, and at least {unchanged} of next words unchanged</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The verdict is the first of these that the plan meets in both figures:</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{worst}: anything beyond</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A rule of thumb from formats that many people use; the help page “Method” says where it comes from. Your own prompts decide: try them on the Benchmark page.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Filter: name, kind or format</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Filter the weights</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Set…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Set the format of the selected weights</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pin the selected weights to one format</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Undo (Ctrl+Z)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Redo (Ctrl+Y)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Reset</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Remove all pins. You can undo this.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The weights as a table or as a map</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Table</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Map</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Rank by measure against rank by perplexity</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>rank by measure (1 = worst)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>rank by perplexity</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>rank by {label} (1 = worst)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Kendall τ</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>95 % interval</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Agreement of each measure with perplexity</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Check against perplexity</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Quantize one weight at a time, measure perplexity on held-out text, and compare the ranks</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Does the measure rank weights as perplexity does? This check quantizes one weight at a time and measures the model&apos;s perplexity on held-out text.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{count:,} points, each a weight in a format: circles INT8, squares others. Perplexity on {tokens:,} tokens of {name}; {perplexity_full} in full precision.{ceiling}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source> Two halves of the text agree with each other at τ = {ceiling:.2f}. On the whole text, a perfect measure could therefore reach about {highest:.2f}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Every weight is measured in INT4 g64 and predicted in all other formats. Where a prediction is too rough for the plan, that format is measured too.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Bundled novels</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The bundled novels (public domain, English)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>WikiText-2, from the Hugging Face Hub</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Model&apos;s own text</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Text that the model writes itself</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Calibration text</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Own text files…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Tokens of text to measure on</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>More text makes the error bars smaller and the wait longer</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Minutes to measure at most</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>no limit</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>When the time is up, every weight has its best known figures. Continue to improve them.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Formats to measure</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>All, predicted from INT4 g64</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Use all text</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measure every weight on all of the text. Otherwise, a weight stops when more text would not change its rank. That takes about half the time.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Round by data</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Choose the integers of INT4 and smaller formats by what the text gives each weight. The model stays as small and as fast, and loses about half as much as with numbers rounded to nearest.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Tokens</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Formats</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>How long, how thoroughly, and how integers are chosen</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Minutes at most</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Text to measure on</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Text (*.txt *.md);;All files (*)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>All</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Each chosen format is measured for every weight: {labels}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Most sensitive weights</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Nothing measured yet.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>≈ 8.88e-3 ± 0.18e-3</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Sensitivity by component and block</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>block</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{text} (the worst of {more} experts)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Colours: {low} to {high}{unit}, logarithmic</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{unit} per token, </source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{unit}log scale</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>not yet measured</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>settled early</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>predicted</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>How far the quantized model&apos;s predictions q are from the full model&apos;s p: Σ p·log(p/q), averaged over the tokens of the text.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The other direction, Σ q·log(q/p). It penalizes probability where the full model has none.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Mean squared difference of the logits.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Signal-to-quantization-noise ratio of the logits, in decibels. Higher is better.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Change of the cross-entropy on the text. Noise can make it negative.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Share of tokens whose most likely next token stays the same.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>predicted from another format</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>measured on {n:,} tokens{tr}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>, rank settled</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Which weights matter</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Start</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measure every weight in every chosen format (F5)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>See here, block by block, how much each weight matters for the model&apos;s predictions.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Make a plan →</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Smaller cells (-)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Larger cells (+, or Ctrl and the wheel)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Most sensitive</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>By block, or agreement with perplexity</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>By block</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Agreement with perplexity</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Start over</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Continue</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>About {time} on this computer</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Everything is measured. Choose more text or formats.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Predicted: no text was read in this format</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Not measured in this format</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{sign} {predicted:,} of {count:,} are predicted from other formats, with the error that such predictions have shown. Measured: {measured:,}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{settled:,} of {count:,} were settled on {ends} tokens, at 95 % confidence{others}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>; the other {count:,} used {max:,}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Histogram of the weight&apos;s values</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>How many of the weight&apos;s values lie where, on a log scale</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Select a weight</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>All values are zero</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{size:,} values, standard deviation {spread}, largest {largest}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL of the weight by window of text</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL, nats</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL of the weight in this format, for each window of text in its order; the line is the mean</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{count}, KL {plus_minus}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Window {place}: {kl} nats</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Values</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>By text</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Nothing selected</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measures of the selected weight by format</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Of the selected weight: figures, values, or KL by text</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Select a cell or a bar to see the weight&apos;s figures</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source> · used {uses}×</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source> · block {block}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{kind}{where} · {shape} · {count} weights{uses}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>is done</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>has failed</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>was cancelled</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Dismiss this message</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Yours</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Theirs</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Theirs ÷ yours</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Theirs is</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A result that was shared</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Shared on {when}: {words}, from {name}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Use its plan</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open its plan for the model it was made for</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Use its scores</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Plan with its measurements instead of measuring here</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>All figures…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Both benchmarks in full, side by side</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Their laptop</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Benchmark this model here to see your laptop beside theirs.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Their laptop against yours</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Yours: {yours}. Theirs: {theirs}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The two benchmarks have no row in common.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Benchmarks side by side</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>You have measured this model yourself</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Something unexpected happened: {name}: {error}. The log has the details. If the window behaves oddly, save your plan and restart KL Lens.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Processor use, last 30 seconds</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>This app</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>28.8 / 128 GB</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>28.8 GB</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>8,888 GB free</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Memory (resident) of the window and its worker processes</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{ram_used:.1f} / {total} GB</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{disk_free:,.0f} GB free</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Progress</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>about 88 h 88 min left</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pause</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Pause after the current step</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cancel the job; what was measured is kept (Esc)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Keep going</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cancel this job? What was measured is kept. Start it again to resume.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>about {left} left</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The whole job: {words}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{left} left</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Resume</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Paused</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Stopping…</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>, {per_s}/s</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The whole job</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Step {current} of {count}, {stage}: {share}. {words}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Sensitivity</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Library</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compress</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measure, plan, export and benchmark this model, as the pages are set (Ctrl+Enter)</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>All steps, as the pages are set</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>All steps: about {took} on this computer</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The work folder {folder} is missing. Connect its drive, or choose another folder.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open the settings</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL Lens crashed when it last ran</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL Lens crashed when it last ran. To report it, open the log and copy the diagnostics.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open the log</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Choose a device on the Benchmark page</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{state}: {names}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compressed</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Failed, see the log</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source> · prompts of {prompt:,} tokens</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{when} · {variants} on {devices}{settings}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>no device</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A chat is being answered. Wait for it or stop it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Another job started.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The chat could not start: {error}. Close other programs.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A job is running. Wait for it or cancel it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The job could not start</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Check that the work folder can be written to, close other programs, and try again</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>attention</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>embedding</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>head</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>convolution</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Thorough</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Quick look</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Choose a model on the Model page</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cannot compare {name}: benchmark a model of your own first.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cannot open {folder}: a job is running. Wait for it or cancel it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Saved the {words} as {path}. It holds no weights and no paths.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open the model that it is for</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>this model has scores already</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cannot use the scores of {name}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Delete those first</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The scores cannot be set aside</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>the sample</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Repair: {changed} exchanged, joint KL lower by {gain} nats per token</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{step_words}: started</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{step_words}: done</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Uploaded to {url}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{id}: damaged files were downloaded again: {damaged}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{id}: all {count} files are as the Hub lists them.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The earlier benchmark is kept: timings compare only within one run.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>What was measured is kept.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{kinds} blocks</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>rev {revision}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>local</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>A job is running. {name} can be compressed after it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{path} was not applied: another model was opened meanwhile.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{stage}: cancelled. {kept}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Its finished rows are kept. An earlier benchmark is under “Compare with”.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>No row was finished.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Exported {count} to {place}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cannot open {plan_to_apply}: a job is running. Wait for it or cancel it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Downloading</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Verifying files</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Reading the model</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Loading the model</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measuring sensitivity</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Planning</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Verifying on held-out text</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Repairing the plan</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measuring the baselines</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Exporting</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Uploading</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Benchmarking</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Benchmarking FP16 too</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Looking for devices</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measuring what formats cost</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measuring each weight&apos;s perplexity</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Compressing</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{scores} was measured on another model and is ignored.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{plan} is for another model and is ignored.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cannot use {exports}: {why}. Export it again.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cannot open {name}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>it holds scores alone</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open a plan or a bundle with them</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cannot open {folder}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Export it again</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>it does not say which model it is of</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open the model, and export it</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cannot open {path}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>its model, {wanted}, is not on this computer</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Open or download the model first, and then this</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Some settings cannot be used and have their usual values: {names}. Your file is kept as {path}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>all of them</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>not started</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>running</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>incomplete</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>out of date</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>failed</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>done</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The last job failed; the Log says why. {words}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{done:,} of {total:,} weights are measured. The other {rest} stay FP16 in every plan until you continue.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{count} used only {least:,} or more of {tokens:,} tokens. Continue for smaller errors.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The plan covers {planned:,} of {total:,} weights; the others stay FP16. </source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Move the budget to plan all of them.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Measure the rest first.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The plan is from before the latest measurements. Move the budget to renew it.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The exported plan is an earlier one. Export it again.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{left} of the exported plan stay FP16: no analysis covered them.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The benchmark measured an earlier export of {old}. Run it again.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Not measured yet: {left}. Run the benchmark again.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source> What was measured is kept.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>KL Lens closed unexpectedly while {stage} ({title}).{kept}</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{done:,} of {count} are measured.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>there is no such folder</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>Cannot open {folder}: {why}.</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>{name} exists already. Do you want to replace it?</source>
        <translation type="unfinished"></translation>
    </message>
    <message>
        <source>The queue is on hold. Choose a device on the Benchmark page, then start it.</source>
        <translation type="unfinished"></translation>
    </message>
</context>
</TS>
