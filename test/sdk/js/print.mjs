// Events are printed one in a line, fields separated by tabs.
export const print = (...fields) => process.stdout.write(fields.join("\t") + "\n");

// inputEnds resolves when the program is asked to end: its input is closed.
export const inputEnds = new Promise((resolve) => {
  process.stdin.on("end", resolve);
  process.stdin.on("close", resolve);
  process.stdin.resume();
});

export async function main(commands) {
  const [command, ...args] = process.argv.slice(2);
  try {
    await commands[command](...args);
    print("done");
    process.exit(0);
  } catch (e) {
    console.error(e);
    process.exit(1);
  }
}
