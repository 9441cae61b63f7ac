// What a page must be for people who see little, use no mouse, or hold a phone: returns a list of complaints.
function complaints() {
  const found = [];
  const counts = new Map();
  const say = (what, element) => {
    const kind = `${what}${element?.tagName}`;
    counts.set(kind, (counts.get(kind) || 0) + 1);
    if (counts.get(kind) > 3) return;

    const place = element ? `<${element.tagName.toLowerCase()}${element.id ? ` id=${element.id}` : ""}${element.getAttribute("class") ? ` class=${element.getAttribute("class")}` : ""}> ${element.textContent.trim().replace(/\s+/g, " ").slice(0, 40)}` : "";
    found.push(`${what} ${place}`.trim());
  };
  const all = (selector) => [...document.querySelectorAll(selector)];
  const seen = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const named = (element) => (element.getAttribute("aria-label") || "").trim() || (element.getAttribute("aria-labelledby") || "").split(" ").some((id) => document.getElementById(id)?.textContent.trim());

  // The page
  if (!document.documentElement.lang) say("no language");
  if (!document.title.trim()) say("no title");
  if (!document.querySelector("meta[name=viewport]")) say("no viewport");
  if (all("main").length !== 1) say("not one main part");
  if (document.documentElement.scrollWidth > innerWidth) {
    say(`the page scrolls sideways: ${document.documentElement.scrollWidth} px of ${innerWidth}`);
  }
  const ids = all("[id]").map((element) => element.id);
  if (new Set(ids).size < ids.length) say("an id is there twice");
  for (const link of all('a[href^="#"]')) if (!document.getElementById(decodeURIComponent(link.hash.slice(1)))) say("a link leads nowhere:", link);

  // Headings
  if (all("h1").length !== 1) say("not one h1");
  let before = 0;
  for (const heading of all("h1, h2, h3, h4, h5, h6")) {
    const level = Number(heading.tagName[1]);
    if (level > before + 1) say(`a heading skips a level after h${before}:`, heading);
    before = level;
  }

  // Names
  for (const image of all("img")) if (!image.hasAttribute("alt")) say("an image without alternative text:", image);
  for (const drawing of all("svg")) {
    if (!drawing.closest("[aria-hidden=true]") && !drawing.closest("[role=img]")) say("a drawing that is neither named nor hidden:", drawing);
  }
  for (const drawing of all("[role=img], [role=region], [role=group], nav, section")) if (!named(drawing)) say("no name:", drawing);
  for (const control of all("input, select, textarea, button")) {
    if (!named(control) && !control.title && !control.labels?.length && !control.textContent.trim()) say("a control without a label:", control);
  }
  for (const link of all("a[href]")) if (!named(link) && !link.textContent.trim()) say("a link without a text:", link);

  // Tables
  for (const table of all("table")) {
    if (!table.caption?.textContent.trim()) say("a table without a caption:", table);
    const heads = [...table.querySelectorAll("th")];
    if (!heads.length || heads.some((head) => !head.scope)) say("a table whose heads have no scope:", table);
  }

  // The keyboard
  // A frame and a headless window are never focused: the rules for :focus-visible are asked by a class.
  for (const sheet of document.styleSheets) {
    for (const rule of [...sheet.cssRules]) {
      if (rule.selectorText?.includes(":focus")) sheet.insertRule(rule.cssText.replaceAll(/:focus(-visible)?/g, ".as-if-focused"), sheet.cssRules.length);
    }
  }
  const stops = all("a[href], button, select, input, textarea, summary, [tabindex]").filter(seen);
  for (const stop of stops) {
    if (stop.tabIndex > 0) say("out of the keyboard's order:", stop);
    if (stop.tabIndex < 0) continue;
    stop.focus({ preventScroll: true });
    stop.classList.add("as-if-focused");
    const style = getComputedStyle(stop);
    if (document.activeElement !== stop) say("cannot be reached by keyboard:", stop);
    else if (style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 1) say("focus is not seen:", stop);
    stop.classList.remove("as-if-focused");
  }
  document.activeElement?.blur();
  for (const box of all("body *").filter(seen)) {
    if (!["auto", "scroll"].includes(getComputedStyle(box).overflowX) || box.scrollWidth <= box.clientWidth + 1) continue;
    if (box.tabIndex !== 0 || box.getAttribute("role") !== "region" || !named(box)) say("a part that scrolls, but not by keyboard:", box);
  }

  // Contrast (WCAG 2.2, 1.4.3)
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const rgba = (color) => {
    if (!known.has(color)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = color;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      known.set(color, [r, g, b, a / 255]);
    }
    return known.get(color);
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((value, k) => value * a + below[k] * (1 - a));
  const behind = (element) => {
    if (!element) return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
    const own = rgba(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, behind(element.parentElement));
  };
  const light = (color) => {
    const [r, g, b] = color.map((value) => value / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const said = new Set();
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !seen(element) || ["SCRIPT", "STYLE", "TITLE", "OPTION"].includes(element.tagName.toUpperCase())) continue;
    const style = getComputedStyle(element);
    const below = behind(element);
    const ink = over(rgba(element.closest("svg") ? style.fill : style.color), below);
    const [dim, bright] = [light(ink), light(below)].sort((a, b) => a - b);
    const ratio = (bright + 0.05) / (dim + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const key = `${style.color} ${style.fill} ${below}`;
    if (ratio < (large ? 3 : 4.5) && !said.has(key)) {
      said.add(key);
      say(`contrast ${ratio.toFixed(2)}:`, element);
    }
  }
  return found;
}

// What print must be: returns a list of complaints. The page is shown as its style sheet prints it.
function printComplaints() {
  const found = [];
  let paged = false;
  for (const sheet of document.styleSheets) {
    for (const rule of sheet.cssRules) {
      paged ||= rule instanceof CSSPageRule && rule.style.size === "landscape" && rule.style.margin !== "";
      if (!(rule instanceof CSSMediaRule)) continue;
      if (rule.media.mediaText.includes("screen")) rule.media.mediaText = "not all";
      if (rule.media.mediaText === "print") rule.media.mediaText = "all";
    }
  }
  if (!paged) found.push("no @page with landscape and margins");
  const must = (selector, property, value) => {
    const wrong = [...document.querySelectorAll(selector)].filter((e) => e.checkVisibility() && getComputedStyle(e)[property] !== value);
    if (wrong.length) found.push(`${selector}: ${property} is ${getComputedStyle(wrong[0])[property]}, not ${value}, of ${wrong.length}`);
  };
  must("table, tr, caption, figure, img, .note", "breakInside", "avoid");
  must("h2, h3, caption, summary", "breakAfter", "avoid");
  must("thead", "display", "table-header-group");
  must(".scroll", "overflowX", "visible");
  must(".scroll th:first-child", "position", "static");
  must("td, th, .note, .verdict", "printColorAdjust", "exact");
  if (getComputedStyle(document.body).backgroundColor !== "rgb(255, 255, 255)") found.push("the paper is not white");
  if (document.documentElement.scrollWidth > innerWidth) found.push(`wider than the paper: ${document.documentElement.scrollWidth} of ${innerWidth} px`);
  return found;
}
