// Elements from plain values. Text is always text: no name from a file or a model is read as HTML.

/** Build an element. Keys "on..." are listeners, "class" and "data-", "aria-" are attributes, all else are properties. */
export function build(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class" || key === "role" || key === "scope" || key.includes("-")) element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

/** Build a bar whose filled part is a share from 0 to 1. The number stands beside it as text. */
export function buildBar(share, color) {
  const fill = build("span", { class: "fill" });
  fill.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
  if (color) fill.style.backgroundColor = color;
  return build("span", { class: "bar", "aria-hidden": "true" }, fill);
}

/** Build a slider of options[key] from ``low`` to 1; ``sync`` shows the value after another slider has changed it. */
export function buildSlider(label, options, key, format, onChange, low = 0) {
  const output = build("output", {});
  const input = build("input", { type: "range", min: low, max: 1, step: 0.05, oninput: () => {
    options[key] = Number(input.value);
    onChange();
  } });
  const sync = () => {
    input.value = options[key];
    output.textContent = format(options[key]);
  };
  return { element: build("label", { class: "slider" }, build("span", {}, label), input, output), sync };
}

/** Build a switch of options[key]; ``sync`` shows the value after another switch has changed it. */
export function buildSwitch(label, options, key, onChange) {
  const input = build("input", { type: "checkbox", onchange: () => {
    options[key] = input.checked;
    onChange();
  } });
  return { element: build("label", { class: "switch" }, input, label), sync: () => (input.checked = options[key]) };
}

/** Put text on the clipboard and say so on the button for two seconds. */
export async function copyText(text, button) {
  const words = button.textContent;
  let copied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copied = copyBySelection(text); // pages from http://192.168... have no clipboard
    button.focus();
  }
  button.textContent = copied ? "Copied" : "Not allowed here";
  setTimeout(() => (button.textContent = words), 2000);
}

function copyBySelection(text) {
  const area = build("textarea", { value: text, class: "unseen", "aria-hidden": "true" });
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}

export function formatPercent(value) {
  const percent = 100 * value;
  if (percent > 0 && percent < 0.1) return "< 0.1 %";
  if (percent < 100 && percent > 99.9) return "> 99.9 %";
  return `${percent.toFixed(1)} %`;
}

export function formatMilliseconds(value) {
  return `${value >= 100 ? Math.round(value) : Number(value).toFixed(1)} ms`;
}

export function formatBytes(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

export function formatCount(count, noun, plural = `${noun}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? noun : plural}`;
}
