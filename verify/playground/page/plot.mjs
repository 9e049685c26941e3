// Plots the self factor against the norm of the input, as SVG with logarithmic axes, beside a table of the same numbers.
const WIDTH = 640, HEIGHT = 300, LEFT = 58, BOTTOM = 44, TOP = 14, RIGHT = 30;
const SVG = "http://www.w3.org/2000/svg";

function drawn(tag, attributes, words = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = words;
  return made;
}

function decades(low, high) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const step = Math.max(1, Math.ceil((last - first) / 6));
  return Array.from({ length: Math.floor((last - first) / step) + 1 }, (_, k) => first + k * step);
}

const raised = (power) => `10${String(power).replace(/./g, (sign) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign] ?? "⁻")}`;
const tick = (power) => (power > 3 || power < -3 ? raised(power) : String(Number((10 ** power).toPrecision(1))));
const number = (value) => (Math.abs(value) >= 1e4 || Math.abs(value) < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(3))));

export function plot({ lines, input }) {
  const kept = lines.map(({ label, points }) => ({ label, points: points.filter(([x, y]) => x > 0 && y > 0) })).filter(({ points }) => points.length > 1);
  if (!kept.length) return null;
  const xs = kept.flatMap(({ points }) => points.map(([x]) => x)), ys = kept.flatMap(({ points }) => points.map(([, y]) => y));
  const across = decades(Math.min(...xs), Math.max(...xs)), up = decades(Math.min(...ys) * 0.8, Math.max(...ys) * 1.25);
  const place = (value, [first, ...rest], from, to) => from + ((Math.log10(value) - first) / (rest.at(-1) - first)) * (to - from);
  const x = (value) => place(value, across, LEFT, WIDTH - RIGHT), y = (value) => place(value, up, HEIGHT - BOTTOM, TOP);
  const name = `Self factor against the norm of ${input}`;
  const picture = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": name });
  for (const power of up) {
    picture.append(drawn("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(10 ** power), y2: y(10 ** power) }));
    picture.append(drawn("text", { x: LEFT - 8, y: y(10 ** power) + 4, "text-anchor": "end" }, tick(power)));
  }
  for (const power of across) {
    picture.append(drawn("line", { class: "grid", x1: x(10 ** power), x2: x(10 ** power), y1: TOP, y2: HEIGHT - BOTTOM }));
    picture.append(drawn("text", { x: x(10 ** power), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, tick(power)));
  }
  picture.append(drawn("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle", class: "title" }, input === "all inputs" ? "norm of all inputs" : `‖${input}‖`));
  kept.forEach(({ points }, place) => {
    const path = points.map(([a, b], k) => `${k ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
    picture.append(drawn("path", { d: path, class: `line line-${place % 5}` }));
  });
  const legend = document.createElement("ul");
  legend.className = "legend";
  kept.forEach(({ label, points }, place) => {
    const key = drawn("svg", { viewBox: "0 0 32 8", "aria-hidden": "true" });
    key.append(drawn("path", { d: "M0 4H32", class: `line line-${place % 5}` }));
    const entry = document.createElement("li");
    const [from, to] = [points[0][1], points.at(-1)[1]].map(number);
    entry.append(key, `${label}: ${from === to ? `${from} throughout` : `${from} to ${to}`}`);
    legend.append(entry);
  });
  const figure = document.createElement("figure"), caption = document.createElement("figcaption");
  caption.textContent = "One sample with scaled inputs; everything else is drawn once at small sizes. A flat line means no divergence.";
  figure.append(picture, legend, caption);
  return figure;
}
