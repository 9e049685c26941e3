// Python in a web worker: loads Pyodide and the archive, then answers one request after another.
import { loadPyodide } from "./pyodide/pyodide.mjs";

const SITE = "/playground";
let answer;

async function start() {
  const archive = fetch("python.zip").then((response) => {
    if (!response.ok) throw new Error(`python.zip: ${response.status}`);
    return response.arrayBuffer();
  });
  const python = await loadPyodide({ indexURL: new URL("./pyodide/", import.meta.url).href });
  postMessage({ said: "Loading SymPy and the derivations …" });
  python.unpackArchive(await archive, "zip", { extractDir: SITE });
  python.runPython(`
import sys, warnings
sys.path.insert(0, ${JSON.stringify(SITE)})
warnings.simplefilter("ignore")
import answers
`);
  answer = python.globals.get("answers").answer;
  postMessage({ ready: true, version: python.runPython("import sympy; f'Python {sys.version.split()[0]}, SymPy {sympy.__version__}'") });
}

const started = start().catch((problem) => postMessage({ failed: String(problem) }));

onmessage = async ({ data }) => {
  await started;
  if (answer) postMessage({ number: data.number, part: data.part, told: JSON.parse(answer(JSON.stringify(data))) });
};
