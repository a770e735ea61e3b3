// Elements, and lists of them that follow data. Nothing here sets markup from text.

/** A new element. `props`: attributes, `on…` listeners; `children`: nodes and texts. */
export function h(tag, props = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A text that is written only when it is another. */
export class Text {
  constructor(tag = "span", props = {}) {
    this.element = h(tag, props);
    this.node = document.createTextNode("");
    this.element.append(this.node);
    this.value = "";
  }

  set(value) {
    if (value === this.value) return;
    this.value = value;
    this.node.data = value;
  }
}

/** Children of `parent`, one for each item: `make(item)` gives {element, update(item)}. */
export class Rows {
  constructor(parent, keyOf, make) {
    Object.assign(this, { parent, keyOf, make });
    this.rows = new Map();
  }

  /** Show these, in this order. A row that stays keeps its element, and what has the focus keeps it. */
  show(items) {
    const focused = this.parent.contains(document.activeElement) ? document.activeElement : null;
    const keys = new Set(items.map(this.keyOf));
    for (const [key, row] of this.rows) {
      if (keys.has(key)) continue;
      this.rows.delete(key);
      row.element.remove();
    }
    let before = this.parent.firstElementChild;
    for (const item of items) {
      const key = this.keyOf(item);
      let row = this.rows.get(key);
      if (row === undefined) this.rows.set(key, (row = this.make(item)));
      row.update(item);
      if (row.element === before) before = before.nextElementSibling;
      else this.parent.insertBefore(row.element, before);
    }
    if (focused) this.focus(focused);
  }

  focus(element) {
    if (!element.isConnected) return;
    // a button that has done its work and is gone gives the focus to its neighbour
    const next = element.hidden ? element.parentElement.querySelector("button:not([hidden])") : element;
    if (next !== document.activeElement) next?.focus({ preventScroll: true });
  }
}

/** `action`, at most once a frame however often the returned function is called. */
export function onceAFrame(action) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      action();
    });
  };
}

/** Tell who cannot see it. */
export function announce(text) {
  document.getElementById("announce").textContent = text;
}

/** A message that goes by itself; an error stays until it is closed. */
export function note(text, isError = false) {
  const element = h("div.note-box", {}, h("span", {}, text));
  element.append(h("button", { type: "button", "aria-label": "Close this message", onclick: () => element.remove() }, "×"));
  if (isError) element.classList.add("bad");
  else setTimeout(() => element.remove(), 6000);
  document.getElementById("notes").append(element);
}
