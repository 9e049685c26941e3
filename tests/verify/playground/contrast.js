// Returns the lowest contrast of any text on the page with its background, and where it is.
(() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\d.]+/g).map(Number).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!colour.endsWith(", 0)")) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  let worst = [21, ""];
  for (const element of document.querySelectorAll("h1, h2, h3, p, small, dt, dd, li, label, button, select, summary, pre, textarea, .chip")) {
    if (!element.offsetHeight || element.disabled) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < worst[0]) worst = [(a + 0.05) / (b + 0.05), element.outerHTML.slice(0, 80)];
  }
  return worst;
})()
