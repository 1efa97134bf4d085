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
