// The suite's browser: Debian's Chromium without a screen, told step by step what a person does.
//
// It promises to do nothing by itself: no step is repeated, and a step that fails says so. The first line on standard
// input is {"chromium": path, "profile": folder, "trusted": base64 of the SHA-256 of the public key that the gate's
// certificate has}. Each line after it is one step, answered with one JSON line: {"done": …} or {"failed": "…"}. Steps
// name a tab by a word; the first step with a new word opens it. It ends with its input.
import { createInterface } from 'node:readline';
import puppeteer from 'puppeteer-core';

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const settings = JSON.parse((await lines.next()).value);

const browser = await puppeteer.launch({
  // so that it ends with this program, however that ends
  pipe: true,
  executablePath: settings.chromium,
  userDataDir: settings.profile,
  headless: true,
  // a container's root has no sandbox to put it in; it only meets the suite's own pages
  args: ['--no-sandbox', '--disable-gpu', `--ignore-certificate-errors-spki-list=${settings.trusted}`],
  defaultViewport: { width: 900, height: 640 },
});

const tabs = new Map();
const complaints = [];
const tab = async (name) => {
  if (!tabs.has(name)) {
    const page = await browser.newPage();
    page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
    tabs.set(name, page);
  }
  return tabs.get(name);
};
// What a step that leads somewhere says of where it led.
const arrived = async (page, response) => ({
  url: page.url(),
  status: response?.status() ?? 0,
  headers: response?.headers() ?? {},
  title: await page.title(),
  text: await page.evaluate(() => document.body.innerText),
});
const leading = async (page, act) => {
  const [response] = await Promise.all([page.waitForNavigation({ timeout: 30000 }), act()]);
  return arrived(page, response);
};

const steps = {
  visit: async (page, { url }) => arrived(page, await page.goto(url, { timeout: 30000 })),
  // presses the button or link of this text
  press: (page, { text }) => leading(page, () => page.locator(`::-p-xpath(//button[normalize-space()="${text}"]|//a[normalize-space()="${text}"])`).click()),
  // fills in one field and sends its form by the Enter key
  enter: (page, { field, text }) => leading(page, async () => {
    await page.locator(`input[name="${field}"]`).fill(text);
    await page.keyboard.press('Enter');
  }),
  // what a page of another site does to post a form to `url` in the person's name
  forge: (page, { url }) => leading(page, () => page.evaluate((action) => {
    const form = Object.assign(document.createElement('form'), { method: 'post', action });
    document.body.append(form);
    form.submit();
  }, url)),
  // whether a script that stands in the page runs, and whether its style sheet applies
  try_script: (page) => page.evaluate(() => {
    const script = document.createElement('script');
    script.textContent = 'window.ran = true';
    document.body.append(script);
    return { ran: window.ran === true, styled: getComputedStyle(document.querySelector('main')).borderRadius !== '0px' };
  }),
  script_cookies: (page) => page.evaluate(() => document.cookie),
  cookies: () => browser.cookies(),
  screen: async (page, { width, height, dark }) => {
    await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }]);
    await page.setViewport({ width, height });
  },
  screenshot: async (page, { file }) => { await page.screenshot({ path: file }); },
  complaints: () => complaints.splice(0),
};

say({ done: await browser.version() });
for await (const line of lines) {
  const { step, tab: name, ...rest } = JSON.parse(line);
  try {
    const page = name && (await tab(name));
    await page?.bringToFront();
    say({ done: (await steps[step](page, rest)) ?? null });
  } catch (error) {
    say({ failed: `${step}: ${error}` });
  }
}
await browser.close();
process.exit(0);
