// llama.cpp's processor time: answers each line of the input, "prefill N" or "decode N", in ms a token.
// node llama_times.mjs NPM_FOLDER MODEL.gguf THREADS
import readline from "node:readline";
import path from "node:path";
import {pathToFileURL} from "node:url";

const [npm, gguf, threads] = process.argv.slice(2);
const index = path.resolve(npm, "node_modules/node-llama-cpp/dist/index.js");
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(index).href);
const llama = await getLlama({gpu: false, build: "never", maxThreads: +threads, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: path.resolve(gguf)});
const context = await model.createContext({contextSize: 2048, batchSize: 512, threads: +threads});
const sequence = context.getSequence();
let seed = 1;

function tokens(count) {
    return Array.from({length: count}, () => (seed = (seed * 48271) % 2147483647) % 1000 + 1);
}

function busyMs() {
    const {user, system} = process.cpuUsage();
    return (user + system) / 1000;
}

console.log(JSON.stringify("ready"));
for await (const line of readline.createInterface({input: process.stdin})) {
    const [what, count] = [line.split(" ")[0], +line.split(" ")[1]];
    await sequence.clearHistory();
    let started = busyMs(), done = 0;
    if (what === "prefill") {
        await sequence.evaluateWithoutGeneratingNewTokens(tokens(count));
        done = count;
    } else {
        for await (const _ of sequence.evaluate(tokens(256), {temperature: 0, yieldEogToken: true})) {
            if (done === 0)  // the first comes with the prompt
                started = busyMs();
            if (done++ === count)
                break;
        }
        done -= 1;
    }
    console.log(JSON.stringify((busyMs() - started) / done));
}
process.exit(0);
