/* Measures the page it is in and leaves the answer as JSON in an element of the id "audit". */
(() => {
  const SELECTORS = {
    summary: [".tiles .value", ".lost li", "nav a"],
    devices: ["tbody tr", "thead th"],
    layers: ["svg circle", "tbody tr", "figcaption"],
    ranges: [".card", ".card svg rect", ".card dd"],
    memory: ["svg rect", "tbody tr", "figcaption"],
    costs: ["tbody tr", "svg.bar"],
    plan: ["tbody tr", "tbody td"],
    passes: ["details li"],
  };
  for (const d of document.querySelectorAll("details")) d.open = true;

  const box = (e) => e.getBoundingClientRect();
  const seen = (e) => box(e).width > 0 && box(e).height > 0;
  const channel = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const parse = (c) => (c.match(/[\d.]+/g) || []).map(Number);
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const contrast = (a, b) => {
    const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  const scrolls = (e) => e.closest(".scroll") !== null;

  const texts = new Map();
  for (const e of document.querySelectorAll("body *")) {
    if (!own(e) || !seen(e) || e.tagName === "SCRIPT" || e.tagName === "title") continue;
    const style = getComputedStyle(e);
    const ink = e instanceof SVGElement ? style.fill : style.color;
    const key = [ink, style.fontSize, behind(e)].join();
    if (texts.has(key)) continue;
    texts.set(key, {
      text: e.textContent.trim().slice(0, 40), font_px: parseFloat(style.fontSize),
      contrast: contrast(parse(ink), behind(e)), colours: `${ink} on ${behind(e)}`,
    });
  }

  const width = document.documentElement.clientWidth;
  const outside = [];
  for (const e of document.querySelectorAll("main *")) {
    if (!seen(e) || scrolls(e) || getComputedStyle(e).clipPath !== "none" || e.closest("thead")) continue;
    if (box(e).right > width + 1 || box(e).left < -1) outside.push(`${e.tagName} '${e.textContent.trim().slice(0, 30)}'`);
  }

  const overlapping = [];
  for (const svg of document.querySelectorAll("svg")) {
    const labels = [...svg.querySelectorAll("text")].filter(seen);
    labels.forEach((a, i) => labels.slice(i + 1).forEach((b) => {
      const p = box(a), q = box(b);
      const across = Math.min(p.right, q.right) - Math.max(p.left, q.left);
      const down = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
      if (across > 1 && down > 2) overlapping.push(`'${a.textContent}' and '${b.textContent}'`);
    }));
  }

  const sections = {};
  for (const section of document.querySelectorAll("section[id]")) {
    const shown = {};
    for (const s of SELECTORS[section.id] || []) shown[s] = [...section.querySelectorAll(s)].filter(seen).length;
    const heading = section.querySelector("h2");
    const said = section.innerText.replace(heading ? heading.innerText : "", "");
    sections[section.id] = { words: (said.match(/\S+/g) || []).length, shown };
  }

  const answer = parent.document.createElement("pre");
  answer.id = "audit";
  answer.textContent = JSON.stringify({
    width, scroll_width: document.documentElement.scrollWidth, height: document.documentElement.scrollHeight,
    outside, overlapping, texts: [...texts.values()], sections,
    scripts: document.querySelectorAll("script").length - 1,
  });
  parent.document.body.append(answer);
})();
